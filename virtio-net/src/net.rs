//! The network device (VIRTIO 1.3, 5.1): a pair of queues for each queue of its tap, and one for control.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use devices::addr::QueueIndex;
use devices::confine::{Call, Confinement};
use devices::interrupt::Interrupt;
use devices::memory::GuestRam;
use devices::rate::{self, Limiter, Rates};
use devices::virtio::queue::Queue;
use devices::virtio::vhost::kernel::{self, Node};
use devices::virtio::{Activation, Features, Profile, Progress, QueueGrant, StartError, VirtioDevice, spec};
use devices::worker::Worker;
use vm_memory::GuestAddressSpace;

use crate::control::{self, Control, KernelPair};
use crate::header;
use crate::pair::{self, Pair};
use crate::rx::Rx;
use crate::tap::Tap;
use crate::tx::Tx;
use crate::vhost::{self, Vhost, VhostError};

const QUEUE_SIZE: u16 = 256;
/// Address, status, pairs, largest packet (5.1.4).
const CONFIG_LEN: u32 = 12;

/// What a device is to be like.
#[derive(Debug)]
pub struct Options {
    /// The guest's address.
    pub mac: [u8; 6],
    /// The largest packet, without its Ethernet header, that the guest is advised of.
    pub mtu: Option<u16>,
    /// Whether checksums and segmentation may be left to others, both ways.
    pub offload: bool,
    /// Who works the queues.
    pub vhost: Vhost,
    /// What may pass in a second, each way; the kernel keeps no limits, so there are none where it works the queues.
    pub rates: Rates,
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel does not work the queues, and shall.
    #[error(transparent)]
    Vhost(#[from] VhostError),
    /// The host refused something.
    #[error("the host refused to {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

impl NetError {
    /// Whether the caller gave something that cannot be; otherwise the host lacks something.
    pub const fn is_callers(&self) -> bool {
        match self {
            Self::Vhost(why) => why.is_callers(),
            Self::Host { .. } => false,
        }
    }
}

/// What the register plane and the threads both know of the device's configuration.
#[derive(Debug)]
pub(crate) struct Shared {
    up: AtomicBool,
    /// Six bytes, the first lowest.
    mac: AtomicU64,
}

impl Shared {
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// The tap `name` is no more: says so, once, to the log and to the driver.
    pub(crate) fn link_down(&self, name: &str, config_changed: &Interrupt) {
        if self.up.swap(false, Ordering::AcqRel) {
            tracing::warn!("the tap {name} is gone; the guest's link is down");
            config_changed.raise();
        }
    }

    pub(crate) fn set_mac(&self, mac: [u8; 6]) {
        let [a, b, c, d, e, f] = mac;
        self.mac.store(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), Ordering::Release);
    }
}

/// The device.
#[derive(Debug)]
pub struct Net {
    taps: Vec<Tap>,
    mtu: Option<u16>,
    features: u64,
    shared: Arc<Shared>,
    control: Worker<Control>,
    /// None where the kernel works the queues.
    pairs: Vec<Lane>,
    /// Here while the device is at rest.
    nodes: Vec<Node>,
    links: Option<OwnedFd>,
    /// Of the last start.
    granted: Vec<(QueueIndex, Progress)>,
}

/// The thread of a pair of queues, and what it gets beside the queues.
#[derive(Debug)]
struct Lane {
    worker: Worker<Pair>,
    /// Of receiving and transmitting; here while the device is at rest.
    limiters: Option<[Limiter; 2]>,
}

impl Lane {
    fn new(name: &str, rates: Rates, confinement: &Confinement) -> io::Result<Self> {
        let calls: Vec<_> = pair::CALLS.into_iter().chain(rate::CALLS).collect();
        let limiters = Some([Limiter::new(rates)?, Limiter::new(rates)?]);
        Ok(Self { worker: Worker::new(name, &calls, confinement)?, limiters })
    }

    /// How far its queues got, if it was at work.
    fn stop(&mut self) -> Vec<(QueueIndex, Progress)> {
        let Some(pair) = self.worker.stop() else { return Vec::new() };
        let got = pair.progress().into();
        self.limiters = Some([pair.rx.limiter, pair.tx.limiter]);
        got
    }
}

impl Net {
    /// A device on the queues of a tap, one at least; `index` tells its threads from other devices'.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn new(
        index: usize,
        taps: Vec<Tap>,
        options: Options,
        confinement: &Confinement,
    ) -> Result<Self, NetError> {
        let host = |what| move |source| NetError::Host { what, source };
        let Options { mac, mtu, offload, vhost, rates } = options;
        let nodes = vhost::nodes(vhost, &taps, rates != Rates::default())?;
        let mut calls: Vec<Call> = control::CALLS.to_vec();
        if !nodes.is_empty() {
            calls.extend(kernel::CALLS);
        }
        let control = Worker::new(&format!("net{index}"), &calls, confinement);
        let control = control.map_err(host("make a thread"))?;
        let threads = if nodes.is_empty() { taps.len() } else { 0 };
        let rates = rates.shared_by(u16::try_from(threads).unwrap_or(u16::MAX));
        let pairs: io::Result<Vec<_>> =
            (0..threads).map(|pair| Lane::new(&format!("net{index}-{pair}"), rates, confinement)).collect();
        let shared = Arc::new(Shared { up: AtomicBool::new(true), mac: AtomicU64::new(0) });
        shared.set_mac(mac);
        Ok(Self {
            features: features(&taps, mtu, offload),
            // Threads of ours see for themselves when the tap is gone.
            links: (!nodes.is_empty()).then(control::links).transpose().map_err(host("watch links"))?,
            pairs: pairs.map_err(host("make a thread or a timer"))?,
            taps,
            mtu,
            shared,
            control,
            nodes,
            granted: Vec::new(),
        })
    }

    fn run(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { ram, features, mut queues, config_changed, needs_reset } = activation;
        self.granted = queues.iter().map(|queue| (queue.index, queue.from)).collect();
        let count = if features.has(header::MQ) { self.taps.len() } else { 1 };
        let mut pairs: Vec<_> = (0..count).map_while(|pair| take_pair(&mut queues, pair)).collect();
        if pairs.is_empty() {
            return Err(StartError::Queue(0));
        }
        let common = Common { ram, features, shared: self.shared.clone(), config_changed, needs_reset };
        let commands = take(&mut queues, 2 * count).filter(|_| features.has(header::CTRL_VQ));
        let mut control = self.control_of(commands, pairs.len(), &common)?;
        if !self.nodes.is_empty() {
            control.kernels = self.nodes.drain(..pairs.len()).zip(pairs.drain(..)).map(kernel_pair).collect();
        }
        control.links = self.links.take();
        self.control.start(control).map_err(|(work, why)| {
            self.put_back(work);
            StartError::Host { what: "run the network device's queues", source: why }
        })?;
        for (i, pair) in pairs.into_iter().enumerate() {
            self.start_pair(i, pair, &common)?;
        }
        Ok(())
    }

    /// The control thread's work, but for what has to come back from it.
    fn control_of(
        &self,
        commands: Option<QueueGrant>,
        pairs: usize,
        common: &Common,
    ) -> Result<Control, StartError> {
        Ok(Control {
            queue: commands.map(|grant| common.open(grant)).transpose()?,
            taps: self.taps.iter().map(Tap::again).collect::<io::Result<_>>().map_err(descriptor)?,
            pairs,
            kernels: Vec::new(),
            links: None,
            features: common.features,
            ram: common.ram.clone(),
            shared: common.shared.clone(),
            config_changed: common.config_changed.clone(),
            needs_reset: common.needs_reset.clone(),
        })
    }

    fn start_pair(&mut self, i: usize, [rx, tx]: [QueueGrant; 2], common: &Common) -> Result<(), StartError> {
        let (Some(lane), Some(tap)) = (self.pairs.get_mut(i), self.taps.get(i)) else { return Ok(()) };
        let (tap, out) = (tap.again().map_err(descriptor)?, tap.again().map_err(descriptor)?);
        let (size, rx, tx) = (rx.ring.size, common.open(rx)?, common.open(tx)?);
        let [receiving, transmitting] = lane.limiters.take().ok_or_else(StartError::busy)?;
        let work = Pair {
            tap,
            out,
            rx: Rx::new(rx, size, common.features, receiving),
            tx: Tx::new(tx, transmitting),
            ram: common.ram.clone(),
            shared: common.shared.clone(),
            config_changed: common.config_changed.clone(),
            needs_reset: common.needs_reset.clone(),
            listening: false,
            blocked: false,
        };
        lane.worker.start(work).map_err(|(work, why)| {
            lane.limiters = Some([work.rx.limiter, work.tx.limiter]);
            StartError::worker(why)
        })
    }

    /// Takes back what the control thread had; how far its queues got.
    fn put_back(&mut self, work: Control) -> Vec<(QueueIndex, Progress)> {
        let mut got: Vec<_> = work.queue.iter().map(|queue| (queue.index(), queue.progress())).collect();
        self.links = work.links;
        let rest = std::mem::take(&mut self.nodes);
        for pair in work.kernels {
            got.extend(pair.rings.iter().map(|ring| ring.index).zip(pair.progress));
            self.nodes.push(pair.node);
        }
        self.nodes.extend(rest);
        got
    }
}

/// What every part of a started device needs.
struct Common {
    ram: GuestRam,
    features: Features,
    shared: Arc<Shared>,
    config_changed: Interrupt,
    needs_reset: Interrupt,
}

impl Common {
    fn open(&self, grant: QueueGrant) -> Result<Queue, StartError> {
        let index = grant.index.0;
        Queue::open(grant, &self.ram.memory(), self.features).map_err(|_| StartError::Queue(index))
    }
}

fn descriptor(source: io::Error) -> StartError {
    StartError::Host { what: "duplicate a tap's descriptor", source }
}

fn kernel_pair((node, rings): (Node, [QueueGrant; 2])) -> KernelPair {
    KernelPair { node, rings, works: false, progress: Vec::new() }
}

fn take(queues: &mut Vec<QueueGrant>, index: usize) -> Option<QueueGrant> {
    let at = queues.iter().position(|queue| usize::from(queue.index.0) == index)?;
    Some(queues.remove(at))
}

/// Receive and transmit queue of a pair, if both are there.
fn take_pair(queues: &mut Vec<QueueGrant>, pair: usize) -> Option<[QueueGrant; 2]> {
    let rx = take(queues, 2 * pair)?;
    Some([rx, take(queues, 2 * pair + 1)?])
}

fn features(taps: &[Tap], mtu: Option<u16>, offload: bool) -> u64 {
    let known = taps.first().map_or(0, Tap::offloads);
    let mut features = header::ALWAYS | header::offloading(if offload { known } else { 0 });
    features |= u64::from(mtu.is_some()) << header::MTU;
    features | u64::from(taps.len() > 1) << header::MQ
}

impl VirtioDevice for Net {
    fn profile(&self) -> Profile {
        Profile {
            kind: spec::device::NET,
            features: self.features,
            queue_sizes: vec![QUEUE_SIZE; 2 * self.taps.len() + 1],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let status = if self.shared.is_up() { header::LINK_UP } else { 0 };
        let pairs = u16::try_from(self.taps.len()).unwrap_or(u16::MAX);
        let mac = self.shared.mac.load(Ordering::Acquire).to_le_bytes();
        let mut space = mac.get(..6).unwrap_or_default().to_vec();
        [status, pairs, self.mtu.unwrap_or(0)].iter().for_each(|field| space.extend(field.to_le_bytes()));
        let bytes = usize::try_from(offset).ok().and_then(|at| space.get(at..)).unwrap_or_default();
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let started = self.run(activation);
        if started.is_err() {
            // Of several threads some may be at work.
            self.stop();
        }
        started
    }

    fn stop(&mut self) -> Vec<Progress> {
        let mut got: Vec<_> = self.pairs.iter_mut().flat_map(Lane::stop).collect();
        if let Some(work) = self.control.stop() {
            got.extend(self.put_back(work));
        }
        let of = |(index, from): (QueueIndex, Progress)| {
            got.iter().find(|(other, _)| *other == index).map_or(from, |(_, progress)| *progress)
        };
        self.granted.drain(..).map(of).collect()
    }
}
