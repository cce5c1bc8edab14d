//! virtio-fs over vhost-user: the device that the guest sees, and the daemon that serves a directory to it.
//!
//! - [`device`]: the device's registers and its conversation with a daemon, ours or another.
//! - [`daemon`]: the program `kiwi-virtiofsd`.

pub mod daemon;
pub mod device;
