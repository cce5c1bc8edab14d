//! Processes.
#![allow(unsafe_code)] // fork

use std::io;

use nix::unistd::{ForkResult, Pid, fork as split};

/// Splits the process; the other one's number in the first, none in the other. Only while there is one thread: what
/// another one held would be held for ever in the new process.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: there is one thread, by this function's contract.
    match unsafe { split() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends this process without what a Rust program does at its end, which is the first process's.
pub(super) fn leave(status: i32) -> ! {
    // SAFETY: ends the process, at once.
    unsafe { libc::_exit(status) }
}

/// Has this process killed when the one that made it ends.
pub(super) fn die_with_parent() -> io::Result<()> {
    // SAFETY: a number.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
