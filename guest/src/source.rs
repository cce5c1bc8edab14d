//! The kernel to build for: its file, its release, its modules.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use guest_kernel::FindError;

/// Where a bzImage's header says where its version text is (protocol 2.0, offset 0x20e, from 0x200 on).
const VERSION_POINTER: usize = 0x20e;
const VERSION_BASE: usize = 0x200;
const BANNER: &[u8] = b"Linux version ";

/// Why no kernel was chosen.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// None is installed.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The named file can't be read.
    #[error("the kernel {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The named file does not say its release.
    #[error("the kernel {0} does not tell its release: give it with --kernel-release")]
    Release(PathBuf),
}

/// A kernel and the folder of its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// vmlinuz or vmlinux.
    pub kernel: PathBuf,
    /// As `uname -r` will say.
    pub release: String,
    /// The folder that holds `modules.dep`; it may be missing.
    pub modules: PathBuf,
}

impl Source {
    /// A kernel installed under `root` ("/" for the host): of `release`, or the running one, or the newest.
    ///
    /// # Errors
    /// There is none.
    pub fn find(root: &Path, release: Option<&str>) -> Result<Self, SourceError> {
        let found = guest_kernel::find(root, release)?;
        let modules = root.join("lib/modules").join(&found.release);
        Ok(Self { kernel: found.path, release: found.release, modules })
    }

    /// A kernel file; its release is read from it unless given.
    ///
    /// # Errors
    /// The file can't be read or does not tell its release.
    pub fn of_file(kernel: &Path, release: Option<&str>) -> Result<Self, SourceError> {
        let release = match release {
            Some(release) => release.to_owned(),
            None => {
                let bytes = fs::read(kernel);
                let bytes = bytes.map_err(|source| SourceError::Read { path: kernel.to_owned(), source })?;
                release_in(&bytes).ok_or_else(|| SourceError::Release(kernel.to_owned()))?
            }
        };
        let modules = modules_of(kernel, &release);
        Ok(Self { kernel: kernel.to_owned(), release, modules })
    }
}

/// `X/boot/vmlinuz` has its modules in `X/lib/modules`; any other file in the host's.
fn modules_of(kernel: &Path, release: &str) -> PathBuf {
    let beside = kernel.parent().filter(|folder| folder.ends_with("boot")).and_then(Path::parent);
    let beside = beside.map(|root| root.join("lib/modules").join(release)).filter(|folder| folder.is_dir());
    beside.unwrap_or_else(|| Path::new("/lib/modules").join(release))
}

/// The release in a kernel's version text: in a bzImage's header, or in a vmlinux's banner.
fn release_in(kernel: &[u8]) -> Option<String> {
    let text = match guest_kernel::detect(kernel) {
        guest_kernel::Kind::BzImage => {
            let low = *kernel.get(VERSION_POINTER)?;
            let high = *kernel.get(VERSION_POINTER + 1)?;
            kernel.get(VERSION_BASE + usize::from(u16::from_le_bytes([low, high]))..)?
        }
        _ => {
            let at = kernel.windows(BANNER.len()).position(|window| window == BANNER)?;
            kernel.get(at + BANNER.len()..)?
        }
    };
    let length = text.iter().take(128).position(|byte| !byte.is_ascii_graphic())?;
    let release = std::str::from_utf8(text.get(..length)?).ok()?;
    // The release becomes a folder's name.
    (release.starts_with(|c: char| c.is_ascii_digit()) && !release.contains('/')).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_read_from_both_kinds_of_kernel() {
        let mut image = vec![0u8; 0x1000];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x400u16.to_le_bytes());
        image[0x600..0x610].copy_from_slice(b"6.1.0-9-x (a@b) ");
        assert_eq!(release_in(&image).as_deref(), Some("6.1.0-9-x"));
        image[0x20e..0x210].copy_from_slice(&0xffffu16.to_le_bytes());
        assert_eq!(release_in(&image), None);
        let elf = [&b"\x7fELF"[..], &[0; 100], b"Linux version 6.12.1+deb12 (x)"].concat();
        assert_eq!(release_in(&elf).as_deref(), Some("6.12.1+deb12"));
        let evil = [&b"\x7fELF"[..], &[0; 100], b"Linux version ../../x y"].concat();
        assert_eq!(release_in(&evil), None);
    }

    #[test]
    fn modules_are_looked_for_beside_the_kernel_first() {
        let root = tempfile::tempdir().unwrap();
        let kernel = root.path().join("boot/vmlinuz-6.1");
        let beside = root.path().join("lib/modules/6.1");
        assert_eq!(modules_of(&kernel, "6.1"), Path::new("/lib/modules/6.1"));
        fs::create_dir_all(&beside).unwrap();
        assert_eq!(modules_of(&kernel, "6.1"), beside);
    }
}
