//! Disks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::size;

/// A disk: a raw file or a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// The image; this or `fd`.
    pub path: Option<PathBuf>,
    /// The image's descriptor, which the process was started with; this or `path`.
    pub fd: Option<i32>,
    /// The guest can't write to it; several machines may share it then.
    pub readonly: bool,
    /// Goes around the host's page cache.
    pub direct: bool,
    /// The serial number that the guest reads, at most 20 bytes.
    pub serial: String,
    /// Queues, each with a thread; 1 to 32.
    pub queues: u16,
    /// Bytes a second at most; absent means no limit. JSON may say it in words: "100M".
    #[serde(deserialize_with = "size::optional")]
    pub bw: Option<u64>,
    /// Requests a second at most; absent means no limit.
    pub ops: Option<u64>,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            path: None,
            fd: None,
            readonly: false,
            direct: false,
            serial: String::new(),
            queues: 1,
            bw: None,
            ops: None,
        }
    }
}
