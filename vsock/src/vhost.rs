//! The socket device (VIRTIO 1.3, 5.10), its queues run by the kernel's vhost-vsock.
//!
//! Three queues: receive and transmit are the kernel's; the third, for events, would tell a guest that it was moved to
//! another host, which never happens here, so nobody works it. Configuration: the guest's context id.
//!
//! 1. [`Vsock::open`] or [`Vsock::from_file`] takes a node of the kernel's, gives it the context id, and starts a
//!    thread that waits.
//! 2. `start` moves node and rings into it; it hands them to the kernel and waits for bad news.
//! 3. `stop` has the thread take them back.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use devices::confine::Confinement;
use devices::interrupt::Interrupt;
use devices::memory::GuestRam;
use devices::virtio::vhost::kernel::{Backend, CALLS, ClaimError, Node};
use devices::virtio::{Activation, Features, Profile, Progress, QueueGrant, StartError, VirtioDevice, spec};
use devices::worker::{Events, Work, Worker};

const NODE: &str = "/dev/vhost-vsock";
/// Queues that the kernel works: receive and transmit (5.10.2).
const KERNELS: usize = 2;
const QUEUE_SIZE: u16 = 128;
/// Connections that keep the bounds of messages (5.10.3).
const SEQPACKET: u64 = 1 << 1;

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// The host's kernel has no vhost-vsock.
    #[error("{NODE} is not there: load the module, with modprobe vhost_vsock")]
    Missing,
    /// It has one, but not for us.
    #[error("{NODE} cannot be opened: {0}; run vmm as a user who may, or give it an open one with fd=N")]
    Open(io::Error),
    /// The node of the kernel's is not to be had.
    #[error("{NODE} cannot be used: {0}")]
    Node(ClaimError),
    /// The descriptor that was given is not to be had.
    #[error("the descriptor given with --vsock fd= cannot be used: {0}")]
    Given(ClaimError),
    /// The host has no thread.
    #[error("the host refused to make a thread: {0}")]
    Thread(io::Error),
}

impl VsockError {
    /// Whether the caller gave something that cannot be; otherwise the host lacks something.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Given(ClaimError::Kind(_) | ClaimError::Owned))
    }
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    features: u64,
    /// Here while the device is at rest.
    node: Option<Node>,
    worker: Worker<Running>,
}

impl Vsock {
    /// A device for the guest of context id `cid`, on a node of its own.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn open(cid: u32, confinement: &Confinement) -> Result<Self, VsockError> {
        let file = open(Path::new(NODE))?;
        Self::new(cid, file, confinement, VsockError::Node)
    }

    /// A device on a node that somebody else has opened, whether or not it has the context id already.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn from_file(cid: u32, file: File, confinement: &Confinement) -> Result<Self, VsockError> {
        Self::new(cid, file, confinement, VsockError::Given)
    }

    fn new(
        cid: u32,
        file: File,
        confinement: &Confinement,
        refused: fn(ClaimError) -> VsockError,
    ) -> Result<Self, VsockError> {
        let cid = u64::from(cid);
        let node = Node::claim(file, Backend::Vsock(cid)).map_err(refused)?;
        let worker = Worker::new("vsock", &CALLS, confinement).map_err(VsockError::Thread)?;
        Ok(Self { cid, features: node.features() & SEQPACKET, node: Some(node), worker })
    }
}

fn open(path: &Path) -> Result<File, VsockError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    opened.map_err(|why| match why.kind() {
        ErrorKind::NotFound => VsockError::Missing,
        // The node is there, but no driver behind it.
        _ if matches!(why.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => VsockError::Missing,
        _ => VsockError::Open(why),
    })
}

impl VirtioDevice for Vsock {
    fn profile(&self) -> Profile {
        Profile {
            kind: spec::device::VSOCK,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; KERNELS + 1],
            config_len: 8,
        }
    }

    fn shares_a_vector(&self) -> bool {
        true
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let cid = self.cid.to_le_bytes();
        let bytes = usize::try_from(offset).ok().and_then(|at| cid.get(at..)).unwrap_or_default();
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { ram, features, queues, needs_reset, .. } = activation;
        for wanted in 0..KERNELS {
            let missing = StartError::Queue(u16::try_from(wanted).unwrap_or(u16::MAX));
            queues.get(wanted).filter(|q| usize::from(q.index.0) == wanted).ok_or(missing)?;
        }
        let node = self.node.take().ok_or_else(StartError::busy)?;
        let work = Running { node, queues, ram, features, needs_reset, progress: Vec::new() };
        self.worker.start(work).map_err(|(work, why)| {
            self.node = Some(work.node);
            StartError::Host { what: "run the socket device's queues", source: why }
        })
    }

    fn stop(&mut self) -> Vec<Progress> {
        let Some(work) = self.worker.stop() else { return Vec::new() };
        self.node = Some(work.node);
        work.progress
    }
}

/// What the thread owns while the kernel works the queues.
#[derive(Debug)]
struct Running {
    node: Node,
    /// The kernel's queues, and the one for events behind them if the driver has it.
    queues: Vec<QueueGrant>,
    ram: GuestRam,
    features: Features,
    needs_reset: Interrupt,
    /// Known when it is over.
    progress: Vec<Progress>,
}

impl Work for Running {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add(self.node.failed(), 0)?;
        let rings = self.queues.get(..KERNELS).unwrap_or_default();
        self.node.start(&self.ram, self.features, rings)
    }

    fn ready(&mut self, _token: u64, _events: &Events) -> ControlFlow<()> {
        devices::warn_of_guest!("the guest's socket driver broke its queue");
        self.needs_reset.raise();
        ControlFlow::Break(())
    }

    fn over(&mut self) {
        let (rings, events) = self.queues.split_at_checked(KERNELS).unwrap_or_default();
        self.progress = self.node.stop(rings);
        self.progress.extend(events.iter().map(|queue| queue.from));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_the_module_is_told_which() {
        let missing = open(Path::new("/nonexistent/vhost-vsock")).expect_err("there is none");
        assert_eq!(
            missing.to_string(),
            "/dev/vhost-vsock is not there: load the module, with modprobe vhost_vsock"
        );
        assert!(!missing.is_callers());
    }

    #[test]
    fn a_descriptor_of_something_else_is_refused() {
        let null = File::open("/dev/null").expect("a file");
        let refused = Vsock::from_file(3, null, &Confinement::none()).expect_err("no node");
        let sentence = "the descriptor given with --vsock fd= cannot be used: it is no vhost-vsock device";
        assert_eq!(refused.to_string(), sentence);
        assert!(refused.is_callers());
    }
}
