//! virtio-fs over vhost-user.
