//! Sockets that std has no type for.
#![allow(unsafe_code)] // taking what accept(2) returns, and an ioctl

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{SockFlag, accept4};

/// The next connection to `listener`.
pub(super) fn accept(listener: &impl AsRawFd) -> nix::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

nix::ioctl_write_ptr!(vsock_set_guest_cid, 0xaf, 0x60, u64);

/// Gives an open /dev/vhost-vsock its context id, as a launcher may.
pub(super) fn set_cid(node: &File, cid: u64) -> nix::Result<()> {
    // SAFETY: the number lives as long as the call, which only reads it.
    unsafe { vsock_set_guest_cid(node.as_raw_fd(), &cid) }.map(drop)
}
