//! virtio-vsock over vhost-vsock.
