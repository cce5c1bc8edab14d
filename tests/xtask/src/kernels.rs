//! Kernels to boot: the host's, or Debian's packages, unpacked below `target/` and never installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use guest::Source;
use guest_kernel::Cache;

use crate::error::{Doing, Error, Result};
use crate::host;

/// A flavour of Debian's kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// 6.1, everything.
    Generic61,
    /// 6.1, for virtual machines.
    Cloud61,
    /// 6.12, for virtual machines.
    Cloud612,
}

impl Flavour {
    /// All that tests use.
    pub(crate) const ALL: [Self; 3] = [Self::Cloud61, Self::Generic61, Self::Cloud612];

    /// What tests call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic61 => "6.1-generic",
            Self::Cloud61 => "6.1-cloud",
            Self::Cloud612 => "6.12-cloud",
        }
    }

    /// The beginning and the end of its packages' names, around the version.
    fn pattern(self) -> (&'static str, &'static str) {
        match self {
            Self::Generic61 => ("linux-image-6.1.", "-amd64"),
            Self::Cloud61 => ("linux-image-6.1.", "-cloud-amd64"),
            Self::Cloud612 => ("linux-image-6.12.", "-cloud-amd64"),
        }
    }

    /// Whether `package` is one of it.
    fn is(self, package: &str) -> bool {
        let (start, end) = self.pattern();
        let middle = package.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        middle.is_some_and(|m| !["cloud", "rt", "dbg", "unsigned"].iter().any(|word| m.contains(word)))
    }
}

/// The kernel that a host would boot: its own, else Debian's cloud kernel.
pub(crate) fn of_host() -> Result<Source> {
    match Source::find(Path::new("/"), None) {
        Ok(source) => Ok(source),
        Err(_) => debian(Flavour::Cloud61),
    }
}

/// The newest kernel of `flavour`, downloaded once.
pub(crate) fn debian(flavour: Flavour) -> Result<Source> {
    let home = host::target().join("kernels").join(flavour.name());
    if let Ok(source) = Source::find(&home, None) {
        return Ok(source);
    }
    host::need(&[("dpkg-deb", "dpkg")])?;
    host::update()?;
    let names = host::output(Command::new("apt-cache").args(["--names-only", "search", "^linux-image-6"]))?;
    let newest = names
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|package| flavour.is(package))
        .max_by(|a, b| guest_kernel::compare_releases(a, b))
        .ok_or_else(|| Error::new(format!("Debian has no {} kernel", flavour.name())))?
        .to_owned();
    eprintln!("xtask: downloading {newest}");
    let part = home.with_extension("part");
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(&part).doing(format_args!("making {}", part.display()))?;
    let mut download = Command::new("apt-get");
    host::run(
        download
            .args(["download", "-qq", &newest])
            .current_dir(&part)
            .stdin(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let package = only_file(&part)?;
    host::run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&part))?;
    std::fs::remove_file(&package).doing("removing the package")?;
    // Whole or not there: a download that was cut off leaves only the .part folder.
    std::fs::rename(&part, &home).doing(format_args!("naming {}", home.display()))?;
    Source::find(&home, None).doing("finding the kernel in its package")
}

/// The ELF file in `source`'s kernel, unpacked once.
pub(crate) fn unpacked(source: &Source) -> Result<PathBuf> {
    let cache = Cache::open(&host::target().join("cache")).doing("opening the kernel cache")?;
    let vmlinux = cache.vmlinux(&source.kernel).doing("unpacking a kernel")?;
    vmlinux.path.ok_or_else(|| Error::new("an unpacked kernel could not be kept on disk"))
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut files = std::fs::read_dir(dir).doing(format_args!("listing {}", dir.display()))?;
    match files.next() {
        Some(Ok(entry)) => Ok(entry.path()),
        _ => Err(Error::new("the download left no file")),
    }
}

#[cfg(test)]
mod tests {
    use super::Flavour;

    #[test]
    fn a_flavour_is_told_by_its_package_name() {
        assert!(Flavour::Generic61.is("linux-image-6.1.0-56-amd64"));
        assert!(!Flavour::Generic61.is("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!Flavour::Generic61.is("linux-image-6.1.0-56-rt-amd64"));
        assert!(!Flavour::Generic61.is("linux-image-6.1.0-56-amd64-dbg"));
        assert!(Flavour::Cloud61.is("linux-image-6.1.0-56-cloud-amd64"));
        assert!(Flavour::Cloud612.is("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!Flavour::Cloud612.is("linux-image-6.12-cloud-amd64"));
    }
}
