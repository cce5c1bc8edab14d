//! System calls on files that neither std nor nix has.
#![allow(unsafe_code)] // system calls with pointers

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;

fn done(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Opens `name` in `dir`.
pub(super) fn open(dir: &impl AsFd, name: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the name is a C string that outlives the call.
    let fd = unsafe { libc::openat(dir.as_fd().as_raw_fd(), name.as_ptr(), flags, mode) };
    done(fd.into())?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What there is to know of an open file, and the mount it is on.
pub(super) fn stat(file: &impl AsFd) -> io::Result<(libc::stat64, u64)> {
    stat_in(file, c"")
}

/// The same of `name` in `dir`, or of `dir` itself where there is no name.
pub(super) fn stat_in(dir: &impl AsFd, name: &CStr) -> io::Result<(libc::stat64, u64)> {
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // As a descriptor that only names its file: nothing is followed, and nothing mounted by that.
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: a structure of plain numbers.
    let mut x: libc::statx = unsafe { std::mem::zeroed() };
    let (fd, path) = (dir.as_fd().as_raw_fd(), name.as_ptr());
    // Not libc's function: std knows that as one that may be missing, and in a static program that makes it so.
    // SAFETY: the path is a C string, and the kernel writes at most the structure.
    done(unsafe { libc::syscall(libc::SYS_statx, fd, path, flags, mask, &raw mut x) })?;
    // SAFETY: a structure of plain numbers.
    let mut st: libc::stat64 = unsafe { std::mem::zeroed() };
    st.st_dev = libc::makedev(x.stx_dev_major, x.stx_dev_minor);
    st.st_rdev = libc::makedev(x.stx_rdev_major, x.stx_rdev_minor);
    (st.st_ino, st.st_nlink, st.st_mode) = (x.stx_ino, x.stx_nlink.into(), x.stx_mode.into());
    (st.st_uid, st.st_gid, st.st_blksize) = (x.stx_uid, x.stx_gid, x.stx_blksize.into());
    // As the kernel does itself between the two structures.
    (st.st_size, st.st_blocks) = (x.stx_size.cast_signed(), x.stx_blocks.cast_signed());
    (st.st_atime, st.st_atime_nsec) = (x.stx_atime.tv_sec, x.stx_atime.tv_nsec.into());
    (st.st_mtime, st.st_mtime_nsec) = (x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec.into());
    (st.st_ctime, st.st_ctime_nsec) = (x.stx_ctime.tv_sec, x.stx_ctime.tv_nsec.into());
    Ok((st, x.stx_mnt_id))
}

/// How full the file system of an open file is.
pub(super) fn statfs(file: &impl AsFd) -> io::Result<libc::statvfs64> {
    // SAFETY: a structure of plain numbers.
    let mut out: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the structure.
    done(unsafe { libc::fstatvfs64(file.as_fd().as_raw_fd(), &mut out) }.into())?;
    Ok(out)
}

/// The next entries of a directory, from the place `offset` on, as the kernel lays them out.
pub(super) fn entries(dir: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
    let fd = dir.as_raw_fd();
    // SAFETY: no memory is involved.
    if unsafe { libc::lseek64(fd, offset.cast_signed(), libc::SEEK_SET) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel writes at most the slice.
    done(unsafe { libc::syscall(libc::SYS_getdents64, fd, into.as_mut_ptr(), into.len()) })
}

/// Moves a name, with flags.
pub(super) fn rename(from: (&impl AsFd, &CStr), to: (&impl AsFd, &CStr), flags: u32) -> io::Result<()> {
    let (old, new) = (from.0.as_fd().as_raw_fd(), to.0.as_fd().as_raw_fd());
    // SAFETY: both names are C strings that outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_renameat2, old, from.1.as_ptr(), new, to.1.as_ptr(), flags) };
    done(result).map(drop)
}

/// Gives `dir` a file of no content: a pipe, a socket, an empty file, a device node.
pub(super) fn make_node(dir: &impl AsFd, name: &CStr, mode: u32, device: u64) -> io::Result<()> {
    // SAFETY: the name is a C string that outlives the call.
    done(unsafe { libc::mknodat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode, device) }.into()).map(drop)
}

/// Where the next data or hole of a file is.
pub(super) fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: no memory is involved.
    let at = unsafe { libc::lseek64(file.as_raw_fd(), offset.cast_signed(), whence) };
    u64::try_from(at).map_err(|_| io::Error::last_os_error())
}

/// Makes or drops a file's space.
pub(super) fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (offset.cast_signed(), len.cast_signed());
    // SAFETY: no memory is involved.
    done(unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, len) }.into()).map(drop)
}

/// Sets an extended attribute of the file at `path`, which is below the thread's own folder.
pub(super) fn set_attribute(path: &CStr, name: &CStr, value: &[u8], flags: i32) -> io::Result<()> {
    // SAFETY: two C strings and a slice that outlive the call, which reads them.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
    done(result.into()).map(drop)
}

/// Reads an extended attribute; its length alone where `into` is empty.
pub(super) fn get_attribute(path: &CStr, name: &CStr, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: two C strings; the kernel writes at most the slice.
    done(unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), into.as_mut_ptr().cast(), into.len()) }
        as libc::c_long)
}

/// Lists extended attributes; the list's length alone where `into` is empty.
pub(super) fn list_attributes(path: &CStr, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: a C string; the kernel writes at most the slice.
    done(unsafe { libc::listxattr(path.as_ptr(), into.as_mut_ptr().cast(), into.len()) } as libc::c_long)
}

/// Removes an extended attribute.
pub(super) fn remove_attribute(path: &CStr, name: &CStr) -> io::Result<()> {
    // SAFETY: two C strings that outlive the call.
    done(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }.into()).map(drop)
}

/// Reads and writes between an open file and guest memory, at places, without a copy and without the file's own
/// position.
pub(super) struct Borrowed<'a>(pub(super) &'a File);

/// As many pieces as the kernel takes at once.
const PIECES: usize = 1024;

impl Borrowed<'_> {
    fn vector(bufs: &[FileVolatileSlice<'_>]) -> Vec<libc::iovec> {
        let piece =
            |buf: &FileVolatileSlice<'_>| libc::iovec { iov_base: buf.as_ptr().cast(), iov_len: buf.len() };
        bufs.iter().take(PIECES).map(piece).collect()
    }
}

impl FileReadWriteVolatile for Borrowed<'_> {
    fn read_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.read_vectored_at_volatile(&[slice], offset)
    }

    fn write_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.write_vectored_at_volatile(&[slice], offset)
    }

    fn read_vectored_at_volatile(
        &mut self,
        bufs: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let (pieces, fd) = (Self::vector(bufs), self.0.as_raw_fd());
        let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
        // SAFETY: each piece is guest memory that is mapped as long as its slice lives, and guest memory may change
        // at any time.
        done(unsafe { libc::preadv64(fd, pieces.as_ptr(), count, offset.cast_signed()) } as libc::c_long)
    }

    fn write_vectored_at_volatile(
        &mut self,
        bufs: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let (pieces, fd) = (Self::vector(bufs), self.0.as_raw_fd());
        let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
        // SAFETY: as above; the kernel reads.
        done(unsafe { libc::pwritev64(fd, pieces.as_ptr(), count, offset.cast_signed()) } as libc::c_long)
    }
}
