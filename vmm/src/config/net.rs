//! Devices that talk to the world.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::size;

/// A network device on a tap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetConfig {
    /// The tap's name; it is made if there is none.
    pub tap: Option<String>,
    /// Instead of a name: open queues of a tap that the process was started with.
    pub fd: Vec<i32>,
    /// The guest's address; absent means a random one.
    pub mac: Option<Mac>,
    /// The largest packet that the guest is advised of.
    pub mtu: Option<u16>,
    /// Pairs of queues, 1 to 32; absent means one, or as many as there are descriptors.
    pub queues: Option<u16>,
    /// Who carries the packets.
    pub vhost: VhostMode,
    /// Open `/dev/vhost-net`s that the process was started with, one for each pair of queues.
    pub vhostfd: Vec<i32>,
    /// Whether checksums and segmentation may be left to others.
    pub offload: bool,
    /// Bytes a second each way at most; absent means no limit. JSON may say it in words: "100M".
    #[serde(deserialize_with = "size::optional")]
    pub bw: Option<u64>,
    /// Packets a second each way at most; absent means no limit.
    pub ops: Option<u64>,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            tap: None,
            fd: Vec::new(),
            mac: None,
            mtu: None,
            queues: None,
            vhost: VhostMode::Auto,
            vhostfd: Vec::new(),
            offload: true,
            bw: None,
            ops: None,
        }
    }
}

impl NetConfig {
    /// How many pairs of queues it has.
    pub fn pairs(&self) -> usize {
        self.queues.map_or(self.fd.len().max(1), usize::from)
    }
}

/// Who carries the packets of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VhostMode {
    /// The kernel's vhost-net; without it there is no machine.
    On,
    /// Threads of this process.
    Off,
    /// The kernel's vhost-net if it can be had; the log says where it cannot.
    #[default]
    Auto,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address is six bytes in hexadecimal with colons between them, such as 52:54:00:12:34:56")]
pub struct NoMac;

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        // Two digits each: from_str_radix alone would take a sign for one.
        let byte = |part: &str| match part.as_bytes() {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => u8::from_str_radix(part, 16).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(NoMac)
    }
}

impl TryFrom<String> for Mac {
    type Error = NoMac;

    fn try_from(text: String) -> Result<Self, NoMac> {
        text.parse()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

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
