//! The kernel's vhost-net: one node a pair of queues.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use devices::virtio::vhost::kernel::{Backend, ClaimError, Node};

use crate::tap::Tap;

const NODE: &str = "/dev/vhost-net";

/// Who works the queues.
#[derive(Debug)]
pub enum Vhost {
    /// The kernel, by nodes of our own opening.
    On,
    /// Threads of ours.
    Off,
    /// The kernel if it will, threads of ours otherwise; the log says which.
    Auto,
    /// The kernel, by these nodes: one for each queue of the tap.
    Given(Vec<File>),
}

/// Why the kernel does not work the queues.
#[derive(Debug, thiserror::Error)]
pub enum VhostError {
    /// The host's kernel has no vhost-net.
    #[error("{NODE} is not there: load the module, with modprobe vhost_net, or leave it out with vhost=off")]
    Missing,
    /// It has one, but not for us.
    #[error("{NODE} cannot be opened: {0}; run vmm as a user who may, or give it an open one with vhostfd=N")]
    Open(io::Error),
    /// The node is not to be had.
    #[error("{NODE} cannot be used: {0}")]
    Node(ClaimError),
    /// A descriptor that was given is not to be had.
    #[error("the descriptor given with --net vhostfd= cannot be used: {0}")]
    Given(ClaimError),
    /// Too few or too many of them.
    #[error("vhostfd= has {nodes} descriptors for a tap of {taps} queues; it needs one for each")]
    Count {
        /// Descriptors given.
        nodes: usize,
        /// Queues there are.
        taps: usize,
    },
    /// Limits that nobody would keep.
    #[error(
        "the kernel's vhost-net keeps no limits; leave bw= and ops= out, or have vmm carry the packets with vhost=off"
    )]
    Limits,
    /// No more descriptors in this process.
    #[error("the host refused to duplicate a descriptor: {0}")]
    Descriptor(io::Error),
}

impl VhostError {
    /// Whether the caller gave something that cannot be; otherwise the host lacks something.
    pub const fn is_callers(&self) -> bool {
        matches!(
            self,
            Self::Limits | Self::Count { .. } | Self::Given(ClaimError::Kind(_) | ClaimError::Owned)
        )
    }
}

/// A node for each of `taps`, or none where we are to work the queues.
///
/// The kernel keeps no limits: with some, the choice falls on us, and whoever insists on the kernel is refused.
pub(crate) fn nodes(vhost: Vhost, taps: &[Tap], limited: bool) -> Result<Vec<Node>, VhostError> {
    match vhost {
        Vhost::Off => Ok(Vec::new()),
        Vhost::Auto if limited => {
            let tap = taps.first().map_or("", Tap::name);
            tracing::info!(
                "vmm itself carries the packets of the tap {tap}, for the kernel's vhost-net keeps no limits"
            );
            Ok(Vec::new())
        }
        Vhost::On | Vhost::Given(_) if limited => Err(VhostError::Limits),
        Vhost::On => open_all(taps),
        Vhost::Auto => Ok(open_all(taps).unwrap_or_else(|why| {
            let tap = taps.first().map_or("", Tap::name);
            tracing::warn!("vmm itself carries the packets of the tap {tap}: {why}");
            Vec::new()
        })),
        Vhost::Given(files) if files.len() != taps.len() => {
            Err(VhostError::Count { nodes: files.len(), taps: taps.len() })
        }
        Vhost::Given(files) => claim_all(files, taps, VhostError::Given),
    }
}

fn open_all(taps: &[Tap]) -> Result<Vec<Node>, VhostError> {
    let files: Vec<_> = taps.iter().map(|_| open(Path::new(NODE))).collect::<Result<_, _>>()?;
    claim_all(files, taps, VhostError::Node)
}

fn open(path: &Path) -> Result<File, VhostError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_err(|why| match why.kind() {
        ErrorKind::NotFound => VhostError::Missing,
        // The node is there, but no driver behind it.
        _ if matches!(why.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => VhostError::Missing,
        _ => VhostError::Open(why),
    })
}

fn claim_all(
    files: Vec<File>,
    taps: &[Tap],
    refused: fn(ClaimError) -> VhostError,
) -> Result<Vec<Node>, VhostError> {
    let claim = |(file, tap): (File, &Tap)| {
        let tap = tap.file().try_clone().map_err(VhostError::Descriptor)?;
        Node::claim(file, Backend::Net(tap)).map_err(refused)
    };
    let nodes: Vec<_> = files.into_iter().zip(taps).map(claim).collect::<Result<_, _>>()?;
    if let Some(tap) = taps.first() {
        tracing::info!("the kernel's vhost-net carries the packets of the tap {}", tap.name());
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_module_is_told_which() {
        let sentence = open(Path::new("/nonexistent")).expect_err("there is none").to_string();
        assert!(sentence.contains("modprobe vhost_net"), "{sentence}");
    }

    #[test]
    fn as_many_nodes_as_queues_are_needed() {
        let null = File::open("/dev/null").expect("a file");
        let refused = nodes(Vhost::Given(vec![null]), &[], false).expect_err("too many");
        assert!(refused.is_callers());
        assert!(refused.to_string().contains("1 descriptors for a tap of 0 queues"));
    }

    #[test]
    fn limits_are_ours_to_keep() {
        assert!(nodes(Vhost::Auto, &[], true).expect("ours").is_empty());
        assert!(nodes(Vhost::Off, &[], true).expect("ours").is_empty());
        for insists in [Vhost::On, Vhost::Given(Vec::new())] {
            let refused = nodes(insists, &[], true).expect_err("not the kernel's");
            assert!(refused.is_callers() && refused.to_string().contains("vhost=off"), "{refused}");
        }
    }
}
