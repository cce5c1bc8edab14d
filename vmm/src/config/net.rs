//! Devices that talk to the world.

use serde::{Deserialize, Serialize};

/// The socket device (AF_VSOCK).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// The guest's context id, 3 to 4294967294, unique on this host.
    pub cid: u32,
    /// An open `/dev/vhost-vsock` that the process was started with; absent means to open it.
    #[serde(default)]
    pub fd: Option<i32>,
}
