//! From a number to an owned descriptor.
#![allow(unsafe_code)] // taking a raw descriptor

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

/// Takes `fd` if it was inherited; `None` if something in this process owns it already.
///
/// What was open before the exec cannot have had close-on-exec; what this process opens always has. Taking sets it, so
/// that the mark also says what has been taken.
pub(super) fn take(fd: i32) -> io::Result<Option<File>> {
    // SAFETY: F_GETFD reads a flag of whatever `fd` is, or fails.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::FD_CLOEXEC != 0 {
        return Ok(None);
    }
    // SAFETY: sets a flag of an open descriptor.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and, without the flag, was nobody's; with the flag nobody gets it again.
    Ok(Some(unsafe { File::from_raw_fd(fd) }))
}
