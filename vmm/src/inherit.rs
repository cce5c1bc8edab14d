//! Descriptors that this process was started with, by the numbers that its command line names.

mod sys;

use std::fs::File;
use std::io;

/// Why a number names no descriptor to be had.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// It is not open, or not inherited.
    #[error(
        "there is no descriptor {0} that this process was started with; open it before, without close-on-exec"
    )]
    NotOpen(i32),
    /// The host refused to say.
    #[error("the descriptor {fd} cannot be taken: {source}")]
    Host {
        /// Its number.
        fd: i32,
        /// What the host answered.
        source: io::Error,
    },
}

/// Takes descriptor `fd` for this process's own; it can be taken once.
///
/// # Errors
/// See [`InheritError`].
pub(crate) fn take(fd: i32) -> Result<File, InheritError> {
    match sys::take(fd) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(InheritError::NotOpen(fd)),
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => Err(InheritError::NotOpen(fd)),
        Err(source) => Err(InheritError::Host { fd, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_survived_an_exec_can_be_taken_and_only_once() {
        let ours = File::open("/dev/null").unwrap();
        assert!(matches!(take(ours.as_raw_fd()), Err(InheritError::NotOpen(_))), "one of this process's own");
        let given = ours.try_clone().unwrap();
        nix::fcntl::fcntl(&given, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        let number = given.into_raw_fd();
        let _taken = take(number).unwrap();
        assert!(matches!(take(number), Err(InheritError::NotOpen(_))), "taken already");
        let sentence = take(9999).unwrap_err().to_string();
        assert!(sentence.starts_with("there is no descriptor 9999 "), "{sentence}");
    }
}
