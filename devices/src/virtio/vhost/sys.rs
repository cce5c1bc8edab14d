//! Requests to a kernel's vhost device that the `vhost` crate only makes of nodes that it has opened itself.
#![allow(unsafe_code)] // ioctls

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vhost::vhost_kern::vhost_binding::{
    VHOST_NET_SET_BACKEND, VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING, vhost_vring_file,
};
use vmm_sys_util::ioctl::ioctl_with_ref;

/// The backend of a queue that has none.
const NONE: RawFd = -1;

fn done(status: i32) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Has the vhost-net `node` work queue `index` on `tap`, or no more.
pub(super) fn set_net_backend(node: &File, index: u32, tap: Option<&File>) -> io::Result<()> {
    let request = vhost_vring_file { index, fd: tap.map_or(NONE, AsRawFd::as_raw_fd) };
    // SAFETY: the request lives as long as the call, which reads it and takes its own reference to the file.
    done(unsafe { ioctl_with_ref(node, VHOST_NET_SET_BACKEND(), &request) })
}

/// Gives the vhost-vsock `node` its context id.
pub(super) fn set_cid(node: &File, cid: u64) -> io::Result<()> {
    // SAFETY: the request lives as long as the call, which only reads it.
    done(unsafe { ioctl_with_ref(node, VHOST_VSOCK_SET_GUEST_CID(), &cid) })
}

/// Has the vhost-vsock `node` work its queues, or no more.
pub(super) fn set_running(node: &File, on: bool) -> io::Result<()> {
    let on = i32::from(on);
    // SAFETY: the request lives as long as the call, which only reads it.
    done(unsafe { ioctl_with_ref(node, VHOST_VSOCK_SET_RUNNING(), &on) })
}
