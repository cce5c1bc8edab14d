//! Looks at eventfds, which their library does not lend as descriptors.
#![allow(unsafe_code)] // borrowing a raw descriptor

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::EventFd;

/// Whether `event` has been signalled; it stays so.
pub(super) fn is_signalled(event: &EventFd) -> bool {
    // SAFETY: `event` owns the descriptor and is borrowed for longer than this.
    let fd = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
