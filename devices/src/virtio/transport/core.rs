//! The status machine, feature negotiation and queue registers (VIRTIO 1.3, 2.1, 2.2, 3.1 and 4).
//!
//! 1. Reset: status 0, nothing negotiated, no queue.
//! 2. ACKNOWLEDGE, DRIVER, FEATURES_OK: each bit needs the ones before it; FEATURES_OK needs a sound choice, too.
//! 3. DRIVER_OK: the enabled queues are checked, copied and granted to the device, which starts. From here on their
//!    registers do not change: a driver that rewrites one writes to nothing.
//! 4. A device that cannot go on shows DEVICE_NEEDS_RESET.
//! 5. Writing 0 stops the device, waits until no thread of it touches guest memory, and is 1 again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Host;
use crate::addr::QueueIndex;
use crate::doorbell::{Doorbell, DoorbellAddress};
use crate::interrupt::Interrupt;
use crate::shared_memory::Shown;
use crate::virtio::spec::{feature, status};
use crate::virtio::{
    Activation, Features, Profile, Progress, QueueGrant, RingLayout, StartError, VirtioDevice,
};

/// A status bit a driver may set, and those that must be set before it.
const STEPS: [(u8, u8); 4] = [
    (status::ACKNOWLEDGE, 0),
    (status::DRIVER, status::ACKNOWLEDGE),
    (status::FEATURES_OK, status::ACKNOWLEDGE | status::DRIVER),
    (status::DRIVER_OK, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK),
];

/// What only the transport knows: its interrupts and where its doorbells are.
pub(super) trait Wiring {
    /// The interrupt for used buffers of `queue`; with `lent` another process raises it as well.
    fn call(&self, queue: QueueIndex, lent: bool) -> Interrupt;
    /// The interrupt for configuration changes.
    fn config_changed(&self) -> Interrupt;
    /// The register that rings for `queue`; `None` while it has no address.
    fn doorbell(&self, queue: QueueIndex) -> Option<DoorbellAddress>;
    /// Where the guest looks for the shared memory region; `None` while it has no address.
    fn region(&self) -> Option<u64>;
}

/// The registers of one queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueRegs {
    pub(super) max: u16,
    pub(super) layout: RingLayout,
    pub(super) enabled: bool,
}

impl QueueRegs {
    fn new(max: u16) -> Self {
        Self { max, layout: RingLayout { size: max, desc: 0, avail: 0, used: 0 }, enabled: false }
    }
}

/// Which of a ring's three addresses, which half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Desc,
    Avail,
    Used,
}

/// What both transports are about.
pub(super) struct Core {
    device: Box<dyn VirtioDevice>,
    profile: Profile,
    host: Host,
    status: u8,
    accepted: u64,
    /// The driver accepted a feature past the 64th.
    unknown_accepted: bool,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u16,
    /// The device's shared memory region, while the hypervisor shows it.
    shown: Option<Box<dyn Shown>>,
    queues: Vec<QueueRegs>,
    /// One a queue, from a start to the reset behind it. Whom a device gives one to may keep it, change its flags
    /// (O_NONBLOCK is every holder's) and signal it: so it is never read here, and never used again.
    kicks: Vec<EventFd>,
    doorbells: Vec<Box<dyn Doorbell>>,
    generation: Arc<AtomicU32>,
    broken: Arc<AtomicBool>,
    live: bool,
}

impl Core {
    pub(super) fn new(device: Box<dyn VirtioDevice>, host: Host) -> Self {
        let profile = device.profile();
        Self {
            device,
            host,
            status: 0,
            accepted: 0,
            unknown_accepted: false,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            shown: None,
            queues: profile.queue_sizes.iter().map(|max| QueueRegs::new(*max)).collect(),
            kicks: Vec::new(),
            doorbells: Vec::new(),
            generation: Arc::default(),
            broken: Arc::default(),
            live: false,
            profile,
        }
    }

    pub(super) fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What the status register shows.
    pub(super) fn status(&self) -> u8 {
        let broken = self.broken.load(Ordering::Acquire);
        self.status | if broken { status::DEVICE_NEEDS_RESET } else { 0 }
    }

    /// The driver wrote the status register.
    pub(super) fn set_status(&mut self, value: u8, wiring: &dyn Wiring) {
        if value == 0 {
            return self.reset();
        }
        self.status |= value & status::FAILED;
        for (bit, needed) in STEPS {
            let new = value & bit != 0 && self.status & bit == 0;
            if !new || self.status & needed != needed || self.status & status::FAILED != 0 {
                continue;
            }
            if bit == status::FEATURES_OK && !self.is_sound() {
                continue; // the driver reads the bit back, finds it clear, and gives up (3.1.1)
            }
            self.status |= bit;
            if bit == status::DRIVER_OK {
                self.activate(wiring);
            }
        }
    }

    fn offered(&self) -> u64 {
        self.profile.features | feature::COMMON
    }

    /// 2.2.2 and 6.2: nothing that was not offered, and version 1.
    fn is_sound(&self) -> bool {
        let offered = self.accepted & !self.offered() == 0 && !self.unknown_accepted;
        offered && self.accepted & 1 << feature::VERSION_1 != 0
    }

    /// The selected 32 of the device's feature bits.
    pub(super) fn device_features(&self) -> u32 {
        word(self.offered(), self.device_features_select)
    }

    /// The selected 32 of the bits that the driver accepted.
    pub(super) fn driver_features(&self) -> u32 {
        word(self.accepted, self.driver_features_select)
    }

    /// The driver accepts features; only before FEATURES_OK.
    pub(super) fn accept_features(&mut self, bits: u32) {
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let shift = match self.driver_features_select {
            0 => 0,
            1 => 32,
            // There are no such bits, so none of them can have been offered.
            _ => return self.unknown_accepted |= bits != 0,
        };
        self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(bits) << shift;
    }

    /// The selected queue's registers.
    pub(super) fn queue(&self) -> Option<&QueueRegs> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// The selected queue's registers while the driver may write them.
    fn open_queue(&mut self) -> Option<&mut QueueRegs> {
        let open = self.status & status::DRIVER_OK == 0;
        self.queues.get_mut(usize::from(self.queue_select)).filter(|_| open)
    }

    /// The driver chooses the selected queue's size. A size that is none leaves a queue that cannot be enabled.
    pub(super) fn set_queue_size(&mut self, size: u16) {
        if let Some(q) = self.open_queue().filter(|q| !q.enabled) {
            q.layout.size = size;
        }
    }

    /// The driver places a part of the selected queue: half 0 is the low one.
    pub(super) fn place_queue(&mut self, part: Part, high: bool, value: u32) {
        let Some(q) = self.open_queue().filter(|q| !q.enabled) else { return };
        let address = match part {
            Part::Desc => &mut q.layout.desc,
            Part::Avail => &mut q.layout.avail,
            Part::Used => &mut q.layout.used,
        };
        let shift = if high { 32 } else { 0 };
        *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    /// The driver enables the selected queue, or on a device at rest disables it.
    pub(super) fn enable_queue(&mut self, enabled: bool) {
        if let Some(q) = self.open_queue() {
            q.enabled = enabled && q.layout.size.is_power_of_two() && q.layout.size <= q.max;
        }
    }

    /// A doorbell rang that the hypervisor did not take for itself.
    pub(super) fn ring(&self, queue: u16) {
        if let Some(kick) = self.kicks.get(usize::from(queue)).filter(|_| self.live) {
            // EAGAIN: it rings already.
            let _ = kick.write(1);
        }
    }

    /// A number that changes with the configuration space (2.5.1).
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// Reads the configuration space; zeros past its end.
    pub(super) fn read_config(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        if let Some(offset) = self.config_offset(offset, out.len()) {
            self.device.read_config(offset, out);
        }
    }

    /// Writes the configuration space; nothing past its end, and nothing before the driver has shown itself.
    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = self.config_offset(offset, data.len())
            && self.status & status::DRIVER != 0
        {
            self.device.write_config(offset, data);
        }
    }

    fn config_offset(&self, offset: u64, len: usize) -> Option<u32> {
        let end = offset.checked_add(len as u64)?;
        (end <= u64::from(self.profile.config_len)).then(|| u32::try_from(offset).ok()).flatten()
    }

    fn activate(&mut self, wiring: &dyn Wiring) {
        if let Err(why) = self.start(wiring) {
            crate::warn_of_guest!("a device of kind {} does not start: {why}", self.profile.kind);
            self.break_with(&wiring.config_changed());
        }
    }

    fn break_with(&self, interrupt: &Interrupt) {
        self.broken.store(true, Ordering::Release);
        interrupt.raise();
    }

    fn start(&mut self, wiring: &dyn Wiring) -> Result<(), StartError> {
        self.kicks = self.fresh_kicks()?;
        let queues = self.grants(wiring)?;
        self.ring_for(wiring);
        self.show(wiring).map_err(|source| StartError::Host { what: "show its shared memory", source })?;
        let (broken, changed) = (self.broken.clone(), wiring.config_changed());
        let (generation, tell) = (self.generation.clone(), changed.clone());
        let activation = Activation {
            ram: self.host.ram.clone(),
            features: Features(self.accepted),
            queues,
            config_changed: Interrupt::from_fn(move || {
                generation.fetch_add(1, Ordering::AcqRel);
                tell.raise();
            }),
            needs_reset: Interrupt::from_fn(move || {
                broken.store(true, Ordering::Release);
                changed.raise();
            }),
        };
        self.live = true;
        self.device.start(activation)
    }

    fn fresh_kicks(&self) -> Result<Vec<EventFd>, StartError> {
        let kicks: std::io::Result<_> =
            self.queues.iter().map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)).collect();
        kicks.map_err(|source| StartError::Host { what: "make an eventfd", source })
    }

    fn grants(&self, wiring: &dyn Wiring) -> Result<Vec<QueueGrant>, StartError> {
        let ram = self.host.ram.memory();
        let mut grants = Vec::new();
        for (index, (queue, kick)) in (0u16..).zip(self.queues.iter().zip(&self.kicks)) {
            if !queue.enabled {
                continue;
            }
            if !queue.layout.lies_in(&ram) {
                return Err(StartError::Queue(index));
            }
            let clone = |source| StartError::Host { what: "duplicate an eventfd", source };
            grants.push(QueueGrant {
                index: QueueIndex(index),
                ring: queue.layout,
                from: Progress::default(),
                kick: kick.try_clone().map_err(clone)?,
                call: wiring.call(QueueIndex(index), self.device.lends()),
            });
        }
        Ok(grants)
    }

    /// Length of the shared memory region, if there is one.
    pub(super) fn region_len(&self) -> Option<u64> {
        self.device.shared_memory().map(|region| region.len())
    }

    /// Doorbells and region are elsewhere now, as `wiring` says; nothing of a device at rest is anywhere.
    pub(super) fn moved(&mut self, wiring: &dyn Wiring) {
        if !self.live {
            return;
        }
        self.ring_for(wiring);
        if let Err(why) = self.show(wiring) {
            crate::warn_of_guest!("a device of kind {} cannot show its memory: {why}", self.profile.kind);
            self.break_with(&wiring.config_changed());
        }
    }

    /// Has the hypervisor show the shared memory region. A device that cannot show what its driver was told of must not go
    /// on: the driver would read nonsense there, and believe it.
    fn show(&mut self, wiring: &dyn Wiring) -> std::io::Result<()> {
        // First, for it may stay where it is.
        self.shown = None;
        if let (Some(region), Some(at)) = (self.device.shared_memory(), wiring.region()) {
            self.shown = Some(self.host.regions.show(at, &region)?);
        }
        Ok(())
    }

    /// Has the hypervisor take the doorbells of the enabled queues. One that it refuses still rings, by way of
    /// [`Core::ring`].
    fn ring_for(&mut self, wiring: &dyn Wiring) {
        self.doorbells.clear();
        for (index, (queue, kick)) in (0u16..).zip(self.queues.iter().zip(&self.kicks)) {
            if let Some(at) = wiring.doorbell(QueueIndex(index)).filter(|_| queue.enabled) {
                match self.host.doorbells.register(at, kick) {
                    Ok(doorbell) => self.doorbells.push(doorbell),
                    Err(why) => crate::warn_of_guest!("a doorbell rings by way of this process: {why}"),
                }
            }
        }
    }

    /// Whether the device has been started.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    fn reset(&mut self) {
        self.doorbells.clear();
        if self.live {
            self.device.stop();
            self.live = false;
        }
        self.shown = None;
        self.status = 0;
        (self.accepted, self.unknown_accepted) = (0, false);
        (self.device_features_select, self.driver_features_select, self.queue_select) = (0, 0, 0);
        self.queues.iter_mut().for_each(|q| *q = QueueRegs::new(q.max));
        self.kicks.clear();
        self.broken.store(false, Ordering::Release);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The 32 bits of `bits` that `select` names.
#[allow(clippy::cast_possible_truncation)] // the half asked for
pub(super) fn word(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}
