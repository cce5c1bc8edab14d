//! Rules about the files a machine boots from and has as disks.

use std::fs::{self, FileType, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::VmConfig;

/// What is wrong with a boot file.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// There is nothing.
    #[error("there is no {what} at {path}")]
    Missing {
        /// Kernel or initrd.
        what: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is something, but no file.
    #[error("the {what} {path} is {kind}, not a regular file")]
    Kind {
        /// Kernel or initrd.
        what: &'static str,
        /// Which path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// It has no bytes.
    #[error("the {what} {path} is empty")]
    Empty {
        /// Kernel or initrd.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// It may not, or cannot, be read.
    #[error("the {what} {path} cannot be read: {why}")]
    Unreadable {
        /// Kernel or initrd.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the host answered.
        why: io::Error,
    },
    /// It is nothing that could be a disk.
    #[error("the disk {path} is {kind}, neither a regular file nor a block device")]
    NoDisk {
        /// Which path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// It cannot ever fit.
    #[error(
        "the initrd {path} of {initrd} MiB does not fit in the machine's memory of {memory} MiB; give it more memory"
    )]
    InitrdLarge {
        /// Which file.
        path: PathBuf,
        /// Its size in MiB, rounded up.
        initrd: u64,
        /// The memory's size in MiB.
        memory: u64,
    },
}

/// The faults of the kernel, the initrd and the disks, one each.
pub(super) fn faults(config: &VmConfig) -> Vec<FileFault> {
    let kernel = bootable("kernel", &config.boot.kernel).err();
    let initrd = config.boot.initrd.as_deref().and_then(|path| {
        let size = bootable("initrd", path);
        size.and_then(|size| initrd_fits(path, size, config.memory.size)).err()
    });
    let disks = config.disks.iter().filter_map(|disk| usable(disk.path.as_deref()?).err());
    kernel.into_iter().chain(initrd).chain(disks).collect()
}

/// A regular file or a block device; whether it can be opened shows when it is.
fn usable(path: &Path) -> Result<(), FileFault> {
    let kind_of = fs::metadata(path).map_err(|why| fault_of("disk", path, why))?.file_type();
    match kind_of.is_file() || kind_of.is_block_device() {
        true => Ok(()),
        false => Err(FileFault::NoDisk { path: path.to_owned(), kind: kind(kind_of) }),
    }
}

fn fault_of(what: &'static str, path: &Path, why: io::Error) -> FileFault {
    match why.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => FileFault::Missing { what, path: path.to_owned() },
        _ => FileFault::Unreadable { what, path: path.to_owned(), why },
    }
}

/// A regular file, readable, not empty: its size. Devices are only looked at, for opening one may do something.
fn bootable(what: &'static str, path: &Path) -> Result<u64, FileFault> {
    let fail = |why: io::Error| fault_of(what, path, why);
    let metadata = fs::metadata(path).map_err(fail)?;
    if !metadata.is_file() {
        return Err(FileFault::Kind { what, path: path.to_owned(), kind: kind(metadata.file_type()) });
    }
    // It may have become a FIFO since: never wait for a writer.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
    match metadata.len() {
        0 => Err(FileFault::Empty { what, path: path.to_owned() }),
        size => Ok(size),
    }
}

fn kind(kind: FileType) -> &'static str {
    match kind {
        k if k.is_dir() => "a directory",
        k if k.is_fifo() => "a FIFO",
        k if k.is_socket() => "a socket",
        k if k.is_block_device() => "a block device",
        k if k.is_char_device() => "a character device",
        _ => "something else",
    }
}

fn initrd_fits(path: &Path, size: u64, memory: u64) -> Result<(), FileFault> {
    let (initrd, memory_mib) = (size.div_ceil(1 << 20), memory >> 20);
    let large = || FileFault::InitrdLarge { path: path.to_owned(), initrd, memory: memory_mib };
    if size >= memory { Err(large()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn fault(path: &Path) -> String {
        bootable("kernel", path).unwrap_err().to_string()
    }

    #[test]
    fn a_readable_file_with_bytes_is_bootable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "x").unwrap();
        assert_eq!(bootable("kernel", &path).unwrap(), 1);
    }

    #[test]
    fn a_missing_kernel_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none");
        assert_eq!(fault(&path), format!("there is no kernel at {}", path.display()));
        assert_eq!(fault(&path.join("deeper")), format!("there is no kernel at {}/deeper", path.display()));
    }

    #[test]
    fn an_empty_kernel_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        fs::write(&path, "").unwrap();
        assert!(fault(&path).ends_with("/k is empty"));
    }

    #[test]
    fn a_directory_a_fifo_a_socket_and_a_device_are_named_for_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        assert!(fault(dir.path()).ends_with("is a directory, not a regular file"));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(fault(&fifo).ends_with("is a FIFO, not a regular file"));
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(fault(&socket).ends_with("is a socket, not a regular file"));
        assert!(fault(Path::new("/dev/null")).ends_with("is a character device, not a regular file"));
    }

    #[test]
    fn an_initrd_as_large_as_memory_is_refused() {
        let text = initrd_fits(Path::new("/i"), 64 << 20, 64 << 20).unwrap_err().to_string();
        assert_eq!(
            text,
            "the initrd /i of 64 MiB does not fit in the machine's memory of 64 MiB; give it more memory"
        );
        assert!(initrd_fits(Path::new("/i"), 1, 64 << 20).is_ok());
    }

    #[test]
    fn faults_of_kernel_and_initrd_come_together() {
        let mut config = VmConfig::default();
        config.boot.kernel = "/nonexistent/k".into();
        config.boot.initrd = Some("/dev/null".into());
        assert_eq!(faults(&config).len(), 2);
    }
}
