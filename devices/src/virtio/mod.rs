//! The one page a device author reads: what a virtio device is, and how it lives.
//!
//! A device's life, driven by its transport:
//! 1. [`VirtioDevice::profile`] is read once: kind, features, queues, configuration length.
//! 2. The guest's driver negotiates features and lays out queues; the device sees nothing of that.
//! 3. DRIVER_OK: [`VirtioDevice::start`] gets everything it needs by value and starts its worker.
//! 4. Data flows between the guest's rings and the worker; the register plane is not involved.
//! 5. Reset or unplug: [`VirtioDevice::stop`] returns when no thread touches guest memory any more.
//!    Then again from 2.

pub mod balloon;
pub mod block;
pub mod chain;
pub mod console;
mod orphans;
pub mod queue;
pub mod rng;
pub mod spec;
pub mod transport;
pub mod vhost;

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::addr::QueueIndex;
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::shared_memory::Region;

/// What never changes about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Device id (VIRTIO 1.3, 5): 4 is an entropy source, 3 a console.
    pub kind: u32,
    /// Feature bits offered beside [`spec::feature::COMMON`], which the transport adds.
    pub features: u64,
    /// Largest size of each queue, a power of two up to 32768.
    pub queue_sizes: Vec<u16>,
    /// Length of the device's configuration space in bytes.
    pub config_len: u32,
}

/// Features both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Whether feature bit `bit` was negotiated.
    pub const fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }
}

/// Where a queue's three parts lie in guest memory, and its size (VIRTIO 1.3, 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingLayout {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub desc: u64,
    /// Guest-physical address of the available ring.
    pub avail: u64,
    /// Guest-physical address of the used ring.
    pub used: u64,
}

impl RingLayout {
    /// Whether size and alignments are as 2.7 says and all three parts lie in guest RAM.
    pub fn lies_in(&self, ram: &GuestMemoryMmap) -> bool {
        let size = usize::from(self.size);
        // Address, bytes (the indices for EVENT_IDX included), alignment.
        let parts = [(self.desc, 16 * size, 16), (self.avail, 6 + 2 * size, 2), (self.used, 6 + 8 * size, 4)];
        self.size.is_power_of_two()
            && self.size <= spec::MAX_QUEUE_SIZE
            && parts.iter().all(|(at, len, align)| {
                at % align == 0 && GuestMemoryBackend::check_range(ram, GuestAddress(*at), *len)
            })
    }
}

/// How far a queue has been worked: what a stopped device hands back and a restored one starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Index of the next available entry to take (free running).
    pub next_avail: u16,
    /// Index of the next used entry to write (free running).
    pub next_used: u16,
}

/// One enabled queue, handed over at DRIVER_OK.
#[derive(Debug)]
pub struct QueueGrant {
    /// Which of the device's queues this is.
    pub index: QueueIndex,
    /// Where it lies; copied at activation, so nothing the guest does later can change it.
    pub ring: RingLayout,
    /// Where to begin.
    pub from: Progress,
    /// Signalled when the driver has made buffers available.
    pub kick: EventFd,
    /// To be raised when buffers have been used.
    pub call: Interrupt,
}

/// All a device gets when its driver is ready.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory.
    pub ram: GuestRam,
    /// What was negotiated.
    pub features: Features,
    /// The queues the driver enabled, by rising index.
    pub queues: Vec<QueueGrant>,
    /// To be raised when the device's configuration space has changed.
    pub config_changed: Interrupt,
    /// To be raised when the driver has broken the rules, or the device cannot go on: the device then works no more
    /// and the driver sees DEVICE_NEEDS_RESET (2.1.2).
    pub needs_reset: Interrupt,
}

/// Why a device did not start; the transport then reports DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The driver left out or mislaid a queue the device cannot do without.
    #[error("queue {0} is missing or does not lie in guest memory")]
    Queue(u16),
    /// The host refused something.
    #[error("the host refused to {what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
}

impl StartError {
    /// The device is at work already, which a transport never lets happen.
    pub fn busy() -> Self {
        Self::worker(std::io::ErrorKind::ResourceBusy.into())
    }

    /// The device's thread did not take the work.
    pub fn worker(source: std::io::Error) -> Self {
        Self::Host { what: "wait for its queues", source }
    }
}

/// A device with queues. The transport does feature paging, status, bounds checks and eventfds; what is left
/// is this.
pub trait VirtioDevice: Send {
    /// What the device is; constant over its life.
    fn profile(&self) -> Profile;

    /// Fills `out` from the configuration space at `offset`; the transport has checked the bounds against
    /// [`Profile::config_len`].
    fn read_config(&self, offset: u32, out: &mut [u8]);

    /// Whether one interrupt does for all queues over PCI. Where they are signalled together, as for an answer and for
    /// what it answers, the guest takes one in place of two.
    fn shares_a_vector(&self) -> bool {
        false
    }

    /// Whether another process works the queues: their [`QueueGrant::call`] then has an eventfd for it to signal
    /// ([`Interrupt::lent`]).
    fn lends(&self) -> bool {
        false
    }

    /// Its shared memory region with id 0 (2.10), constant over its life; the guest sees it from `start` to `stop`.
    fn shared_memory(&self) -> Option<Arc<Region>> {
        None
    }

    /// Takes a guest's write to the configuration space, bounds checked likewise.
    fn write_config(&mut self, _offset: u32, _data: &[u8]) {}

    /// The driver is ready: start working.
    fn start(&mut self, activation: Activation) -> Result<(), StartError>;

    /// Stops working. Afterwards no thread of the device touches guest memory. May be called at any time,
    /// more than once. Returns how far each granted queue got, in the order of the grants.
    fn stop(&mut self) -> Vec<Progress>;
}
