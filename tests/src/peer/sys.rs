//! Sockets that std has no type for.
#![allow(unsafe_code)] // taking what accept(2) returns, an ioctl, and options

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{SockFlag, accept4, setsockopt};
use nix::{setsockopt_impl, sockopt_impl};

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

// linux/vm_sockets.h, which the libc crate leaves out.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

sockopt_impl!(BufferSize, SetOnly, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, u64);
sockopt_impl!(BufferMaxSize, SetOnly, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, u64);

/// Has an AF_VSOCK socket, and those accepted from it, hold as many bytes as `size` of what comes (vsock(7)).
pub(super) fn holds(socket: &impl AsFd, size: u64) -> nix::Result<()> {
    setsockopt(socket, BufferMaxSize, &size)?;
    setsockopt(socket, BufferSize, &size)
}
