//! Finds the kernel image that a host would boot.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A kernel image in a host's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKernel {
    /// The image.
    pub path: PathBuf,
    /// Its release, as `uname -r` would say.
    pub release: String,
}

/// Why no kernel was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The folder can't be listed.
    #[error("{0} can't be listed for kernels")]
    List(PathBuf, #[source] io::Error),
    /// Nothing of the wanted release.
    #[error("there is no kernel {release} in {boot}; {}", known(.others))]
    Release {
        /// The wanted release.
        release: String,
        /// Where it was looked for.
        boot: PathBuf,
        /// The releases that are there.
        others: Vec<String>,
    },
    /// Nothing at all.
    #[error("there is no kernel (vmlinuz-*) in {0}: install linux-image-cloud-amd64 or name a kernel file")]
    None(PathBuf),
}

fn known(others: &[String]) -> String {
    match others {
        [] => "none is installed".to_owned(),
        list => format!("installed: {}", list.join(", ")),
    }
}

/// The release of the running kernel, where procfs tells.
pub fn running_release() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(text.trim().to_owned())
}

/// Finds a kernel under `root` ("/" for the host): `release` if it is given, else the running kernel's image,
/// else the newest in `boot`.
///
/// # Errors
/// See [`FindError`].
pub fn find(root: &Path, release: Option<&str>) -> Result<HostKernel, FindError> {
    if let Some(release) = release {
        return of_release(root, release).ok_or_else(|| not_found(root, release));
    }
    if let Some(kernel) = running_release().and_then(|release| of_release(root, &release)) {
        return Ok(kernel);
    }
    let newest = installed(root)?.pop();
    newest.ok_or_else(|| FindError::None(root.join("boot")))
}

/// Where distributions put the image of a release: Debian in /boot, Fedora beside the modules too.
fn of_release(root: &Path, release: &str) -> Option<HostKernel> {
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let path = places.iter().map(|place| root.join(place)).find(|path| path.is_file())?;
    Some(HostKernel { path, release: release.to_owned() })
}

fn not_found(root: &Path, release: &str) -> FindError {
    let others = installed(root).unwrap_or_default().into_iter().map(|kernel| kernel.release).collect();
    FindError::Release { release: release.to_owned(), boot: root.join("boot"), others }
}

/// The kernels in `boot`, oldest first.
fn installed(root: &Path) -> Result<Vec<HostKernel>, FindError> {
    let boot = root.join("boot");
    let listing = match fs::read_dir(&boot) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| FindError::List(boot.clone(), error))?,
    };
    let mut found: Vec<_> = listing
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let release = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            (is_release(&release) && path.is_file()).then_some(HostKernel { path, release })
        })
        .collect();
    found.sort_by(|a, b| compare_releases(&a.release, &b.release));
    Ok(found)
}

/// A release begins with a digit and is no left-over of a package manager or a rescue image.
fn is_release(name: &str) -> bool {
    const LEFTOVERS: [&str; 4] = [".old", ".bak", ".dpkg-new", ".dpkg-old"];
    name.starts_with(|first: char| first.is_ascii_digit()) && !LEFTOVERS.iter().any(|end| name.ends_with(end))
}

/// Compares releases as people do: numbers by value, the rest by letter.
pub fn compare_releases(a: &str, b: &str) -> Ordering {
    pieces(a).cmp(pieces(b))
}

/// A piece of a release: text sorts before a number at the same place ("6.1-rc1" before "6.1.1").
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece<'a> {
    Text(&'a str),
    Number(u64),
}

fn pieces(release: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = release;
    std::iter::from_fn(move || {
        let digits = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = rest.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(rest.len());
        let (piece, after) = rest.split_at_checked(end)?;
        rest = after;
        match piece {
            "" => None,
            number if digits => Some(Piece::Number(number.parse().unwrap_or(u64::MAX))),
            text => Some(Piece::Text(text)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("boot")).unwrap();
        for name in names {
            fs::write(root.path().join("boot").join(name), b"kernel").unwrap();
        }
        root
    }

    #[test]
    fn the_newest_is_chosen_by_number_and_not_by_letter() {
        let root = tree(&["vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-6.1.0-56-amd64.old"]);
        assert_eq!(find(root.path(), None).unwrap().release, "6.1.0-56-amd64");
        assert!(compare_releases("6.12.1+deb12-amd64", "6.1.99-amd64").is_gt());
    }

    #[test]
    fn the_running_kernel_is_preferred_to_a_newer_one() {
        let running = running_release().unwrap();
        let root = tree(&[&format!("vmlinuz-{running}"), "vmlinuz-999.0"]);
        assert_eq!(find(root.path(), None).unwrap().release, running);
    }

    #[test]
    fn a_missing_release_names_those_that_are_there() {
        let root = tree(&["vmlinuz-6.1.0-9-amd64"]);
        let error = find(root.path(), Some("6.9")).unwrap_err().to_string();
        assert!(error.contains("there is no kernel 6.9") && error.contains("6.1.0-9-amd64"), "{error}");
    }

    #[test]
    fn an_empty_host_is_told_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        assert!(find(root.path(), None).unwrap_err().to_string().contains("install linux-image-cloud-amd64"));
    }
}
