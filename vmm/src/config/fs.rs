//! Directories of the host that the guest sees.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One shared directory: a virtio-fs device, and the daemon that serves it over vhost-user.
///
/// The daemon is at `socket` or at `fd`, one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FsConfig {
    /// The name by which the guest mounts it, 1 to 36 bytes.
    pub tag: String,
    /// Where the daemon listens.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// A connected socket that the process was started with.
    #[serde(default)]
    pub fd: Option<i32>,
    /// Queues for requests.
    #[serde(default = "queues")]
    pub queues: u16,
    /// Size of each queue, a power of two.
    #[serde(default = "queue_size")]
    pub queue_size: u16,
    /// Whether the daemon may map files into the guest's view (DAX). It says how many addresses that takes, a power of two
    /// from 2 MiB to 32 GiB.
    #[serde(default)]
    pub dax: bool,
}

fn queues() -> u16 {
    1
}

fn queue_size() -> u16 {
    1024
}

impl FsConfig {
    /// A share called `tag` whose daemon is yet to be named.
    pub fn new(tag: impl Into<String>) -> Self {
        Self {
            tag: tag.into(),
            socket: None,
            fd: None,
            queues: queues(),
            queue_size: queue_size(),
            dax: false,
        }
    }
}
