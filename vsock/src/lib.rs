//! virtio-vsock over vhost-vsock: AF_VSOCK between the guest and this host.

mod vhost;

pub use vhost::{Vsock, VsockError};
