//! virtio over MMIO (VIRTIO 1.3, 4.2): a page of registers and one interrupt, announced by ACPI as `LNRO0005`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::core::{Core, Part, Wiring, word};
use super::{Host, answer, written};
use crate::addr::QueueIndex;
use crate::bus::BusDevice;
use crate::doorbell::{DoorbellAddress, Register};
use crate::interrupt::Interrupt;
use crate::virtio::VirtioDevice;

/// "virt"
const MAGIC: u32 = 0x7472_6976;
/// Not the legacy interface.
const VERSION: u32 = 2;
/// "KIWI", where other devices say who made them.
const VENDOR: u32 = 0x4957_494b;
/// Where the device's own configuration begins.
const CONFIG: u64 = 0x100;
/// The register that rings.
const NOTIFY: u64 = 0x050;

/// Interrupt status: used buffers, configuration change.
const USED: u32 = 1;
const CHANGED: u32 = 2;

/// A device's registers.
pub struct MmioTransport {
    core: Core,
    wires: Wires,
    region_select: u32,
}

struct Wires {
    base: u64,
    region: Option<u64>,
    interrupt: Interrupt,
    /// CHANGED, if it is pending.
    pending: Arc<AtomicU32>,
}

impl Wiring for Wires {
    /// The interrupt itself, so that a backend outside of this process can raise it: see [`MmioTransport::cause`].
    fn call(&self, _queue: QueueIndex, _lent: bool) -> Interrupt {
        self.interrupt.clone()
    }

    fn config_changed(&self) -> Interrupt {
        let (pending, interrupt) = (self.pending.clone(), self.interrupt.clone());
        Interrupt::from_fn(move || {
            pending.fetch_or(CHANGED, Ordering::AcqRel);
            interrupt.raise();
        })
    }

    fn doorbell(&self, queue: QueueIndex) -> Option<DoorbellAddress> {
        Some(DoorbellAddress { register: Register::Memory(self.base + NOTIFY), value: queue.0 })
    }

    fn region(&self) -> Option<u64> {
        self.region
    }
}

impl MmioTransport {
    /// `device` behind a page of registers at `base`, with `interrupt` for everything; one that has something to lend
    /// where the device lends it. At `region` is what it has of shared memory.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        host: Host,
        (base, region): (u64, Option<u64>),
        interrupt: Interrupt,
    ) -> Self {
        let wires = Wires { base, region, interrupt, pending: Arc::default() };
        Self { core: Core::new(device, host), wires, region_select: 0 }
    }

    /// Length and place of the selected shared memory region; all ones where there is none (4.2.2).
    fn region(&self) -> (u64, u64) {
        let region = self.core.region_len().zip(self.wires.region).filter(|_| self.region_select == 0);
        region.unwrap_or((u64::MAX, u64::MAX))
    }

    /// InterruptStatus. USED is shown whenever the device is live: it costs the driver a look at its queues, and
    /// spares every used buffer a detour through this process to set the bit (4.2.2.1 asks that it be set when there
    /// may be something, not that it be clear when there is nothing).
    fn cause(&self) -> u32 {
        let used = if self.core.is_live() { USED } else { 0 };
        used | self.wires.pending.load(Ordering::Acquire)
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = self.core.queue();
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.core.profile().kind,
            0x00c => VENDOR,
            0x010 => self.core.device_features(),
            0x034 => queue.map_or(0, |q| q.max.into()),
            0x044 => queue.map_or(0, |q| q.enabled.into()),
            0x060 => self.cause(),
            0x070 => self.core.status().into(),
            0x0b0 => word(self.region().0, 0),
            0x0b4 => word(self.region().0, 1),
            0x0b8 => word(self.region().1, 0),
            0x0bc => word(self.region().1, 1),
            0x0fc => self.core.generation(),
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        let low = value.to_le_bytes();
        let half = u16::from_le_bytes([low[0], low[1]]);
        match offset {
            0x014 => self.core.device_features_select = value,
            0x020 => self.core.accept_features(value),
            0x024 => self.core.driver_features_select = value,
            // A queue number past 16 bits is none, and neither is the last one.
            0x030 => self.core.queue_select = u16::try_from(value).unwrap_or(u16::MAX),
            0x038 => self.core.set_queue_size(u16::try_from(value).unwrap_or(0)),
            0x044 => self.core.enable_queue(value == 1),
            NOTIFY => self.core.ring(half),
            0x064 => drop(self.wires.pending.fetch_and(!value, Ordering::AcqRel)),
            0x070 => self.set_status(low[0]),
            0x080 => self.core.place_queue(Part::Desc, false, value),
            0x084 => self.core.place_queue(Part::Desc, true, value),
            0x090 => self.core.place_queue(Part::Avail, false, value),
            0x094 => self.core.place_queue(Part::Avail, true, value),
            0x0a0 => self.core.place_queue(Part::Used, false, value),
            0x0a4 => self.core.place_queue(Part::Used, true, value),
            0x0ac => self.region_select = value,
            _ => {}
        }
    }

    fn set_status(&mut self, value: u8) {
        self.core.set_status(value, &self.wires);
        if value == 0 {
            self.wires.pending.store(0, Ordering::Release);
            self.region_select = 0;
        }
    }
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        match offset.checked_sub(CONFIG) {
            Some(at) => self.core.read_config(at, out),
            None => answer(out, self.register(offset).to_le_bytes()),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset.checked_sub(CONFIG), written(data)) {
            (Some(at), _) => self.core.write_config(at, data),
            (None, Some(value)) => self.set_register(offset, u32::from_le_bytes(value)),
            (None, None) => {} // registers are 32 bits wide (4.2.2.2)
        }
    }
}
