//! From a number to an owned socket.
#![allow(unsafe_code)] // taking a raw descriptor

use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;

/// The descriptor `fd`, if this process was started with it. Only to be called once, for one number.
pub(super) fn inherited(fd: i32) -> Option<UnixListener> {
    // SAFETY: F_GETFD and F_SETFD read and set a flag of whatever `fd` is, or fail.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    // What this process has opened itself has the flag; standard input, output and error are no sockets to take.
    if fd <= 2 || flags < 0 || flags & libc::FD_CLOEXEC != 0 {
        return None;
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open and, without the flag, was nobody's.
    Some(unsafe { UnixListener::from_raw_fd(fd) })
}
