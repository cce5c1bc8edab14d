//! virtio over PCI (VIRTIO 1.3, 4.1): a modern function whose BAR 0 has its registers in memory.
//!
//! ```text
//! 0x0000  common configuration      0x2000  MSI-X table (up to 256 vectors)
//! 0x0800  ISR status                0x3000  MSI-X pending bits
//! 0x1000  device configuration      0x1800  a doorbell for drivers that have no use for ports
//! ```
//!
//! BAR 2 has the device's shared memory region, where it has one.
//!
//! BAR 1 is the doorbell: a port, to which the driver writes the queue's number. KVM need not decode an instruction to
//! know what was written to a port, as it must for memory on AMD's processors. Its capability comes first, and drivers take
//! the first that they can use (4.1.4); the doorbell in memory works as well, but by way of this process.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::core::{Core, Part, Wiring, word};
use super::{Host, answer, written};
use crate::addr::QueueIndex;
use crate::bus::BusDevice;
use crate::doorbell::{DoorbellAddress, Register};
use crate::interrupt::{Interrupt, MsiSource};
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::msix::{self, Msix, NO_VECTOR};
use crate::pci::{Decoded, PciFunction};
use crate::virtio::{VirtioDevice, spec};

/// Bytes of BAR 0.
pub const BAR_SIZE: u32 = 0x4000;
/// Ports of BAR 1.
pub const PORTS: u16 = 4;

const VENDOR: u16 = 0x1af4;
/// Device ids of modern functions begin here (4.1.2.1).
const FIRST_DEVICE_ID: u16 = 0x1040;
/// Modern only, so not transitional (4.1.2.1).
const REVISION: u8 = 1;

const COMMON: (u32, u32) = (0x0000, 0x40);
const ISR: (u32, u32) = (0x0800, 1);
const DEVICE: (u32, u32) = (0x1000, 0x800);
const NOTIFY_IN_MEMORY: (u32, u32) = (0x1800, 4);
const TABLE: (u32, u32) = (0x2000, 0x1000);
const PENDING: (u32, u32) = (0x3000, 0x1000);
const NOTIFY: (u32, u32) = (0, PORTS as u32);
/// Ports between two queues' doorbells: there is one for all (4.1.4.4).
const NOTIFY_STRIDE: u32 = 0;

/// BARs by number.
const REGISTERS_BAR: u8 = 0;
const DOORBELL_BAR: u8 = 1;
const REGION_BAR: u8 = 2;

/// Types of the vendor's capability (4.1.4).
const CAP_VENDOR: u8 = 9;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;
const CAP_SHARED_MEMORY: u8 = 8;
/// Offsets in the body of CAP_PCI, behind id and link: BAR, offset, length, data window.
const WINDOW_BAR: usize = 2;
const WINDOW_OFFSET: usize = 6;
const WINDOW_LENGTH: usize = 10;
const WINDOW_DATA: usize = 14;

/// ISR: used buffers, configuration change (4.1.4.5).
const ISR_CHANGED: u8 = 2;

/// A device's function.
pub struct PciTransport {
    core: Core,
    space: ConfigSpace,
    wires: Wires,
    /// Offsets of two capabilities' bodies in configuration space.
    msix_at: usize,
    window_at: usize,
}

struct Wires {
    msix: Msix,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: Arc<AtomicU8>,
    /// What is seen of the BARs.
    seen: Decoded,
}

impl Wiring for Wires {
    fn call(&self, queue: QueueIndex, lent: bool) -> Interrupt {
        let vector = self.queue_vectors.get(usize::from(queue.0)).copied().unwrap_or(NO_VECTOR);
        if lent { self.msix.lent_interrupt(vector) } else { self.msix.interrupt(vector) }
    }

    fn config_changed(&self) -> Interrupt {
        let (isr, interrupt) = (self.isr.clone(), self.msix.interrupt(self.config_vector));
        Interrupt::from_fn(move || {
            isr.fetch_or(ISR_CHANGED, Ordering::AcqRel);
            interrupt.raise();
        })
    }

    fn doorbell(&self, queue: QueueIndex) -> Option<DoorbellAddress> {
        let port = self.seen.ports.and_then(|ports| u16::try_from(ports.base()).ok())?;
        Some(DoorbellAddress { register: Register::Port(port), value: queue.0 })
    }

    fn region(&self) -> Option<u64> {
        self.seen.region.map(|region| region.base())
    }
}

impl PciTransport {
    /// `device` as a function whose BARs are at `memory`, at `ports` and, for what it has of shared memory, at `region`, with
    /// a vector for configuration changes and one for each queue, or one for all.
    ///
    /// # Errors
    /// The host refused an eventfd or a vector.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        host: Host,
        (memory, ports, region): (u32, u16, Option<u64>),
        source: &dyn MsiSource,
    ) -> io::Result<Self> {
        let shares = device.shares_a_vector();
        let core = Core::new(device, host);
        let queues = core.profile().queue_sizes.len();
        let vectors = if shares { 2 } else { u16::try_from(queues + 1).map_err(io::Error::other)? };
        let msix = Msix::new(vectors, source)?;
        let mut space = ConfigSpace::new(identity(core.profile().kind))
            .with_memory(memory, BAR_SIZE)
            .with_ports(ports, PORTS);
        let region = region.zip(core.region_len());
        if let Some((at, len)) = region {
            space = space.with_region(at, len);
        }
        let region = region.map(|(_, len)| len);
        let (msix_at, window_at) = describe(&mut space, &msix, (core.profile().config_len, region))
            .ok_or_else(|| io::Error::other("a PCI function's capabilities do not fit"))?;
        let wires = Wires {
            msix,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            isr: Arc::default(),
            seen: space.decoded(),
        };
        Ok(Self { core, space, wires, msix_at, window_at })
    }

    /// A write to a doorbell: the queue's number, 16 bits wide (4.1.5.2).
    fn ring(&self, offset: u64, data: &[u8]) {
        if let (0, Some(queue)) = (offset, written(data)) {
            self.core.ring(u16::from_le_bytes(queue));
        }
    }

    fn set_status(&mut self, value: u8) {
        self.core.set_status(value, &self.wires);
        if value == 0 {
            self.wires.isr.store(0, Ordering::Release);
            self.wires.config_vector = NO_VECTOR;
            self.wires.queue_vectors.fill(NO_VECTOR);
        }
    }

    fn read_common(&self, offset: u64, out: &mut [u8]) {
        let queue = self.core.queue();
        let layout = queue.map(|q| q.layout);
        let place = |at: Option<u64>, high: bool| half(at.unwrap_or(0), high);
        match offset {
            0x00 => answer(out, self.core.device_features_select.to_le_bytes()),
            0x04 => answer(out, self.core.device_features().to_le_bytes()),
            0x08 => answer(out, self.core.driver_features_select.to_le_bytes()),
            0x0c => answer(out, self.core.driver_features().to_le_bytes()),
            0x10 => answer(out, self.wires.config_vector.to_le_bytes()),
            0x12 => answer(out, self.queue_count().to_le_bytes()),
            0x14 => answer(out, [self.core.status()]),
            // A byte of a number that only has to change.
            0x15 => answer(out, [self.core.generation().to_le_bytes()[0]]),
            0x16 => answer(out, self.core.queue_select.to_le_bytes()),
            0x18 => answer(out, layout.map_or(0, |l| l.size).to_le_bytes()),
            0x1a => answer(out, self.queue_vector().to_le_bytes()),
            0x1c => answer(out, u16::from(queue.is_some_and(|q| q.enabled)).to_le_bytes()),
            0x20 | 0x24 => answer(out, place(layout.map(|l| l.desc), offset == 0x24)),
            0x28 | 0x2c => answer(out, place(layout.map(|l| l.avail), offset == 0x2c)),
            0x30 | 0x34 => answer(out, place(layout.map(|l| l.used), offset == 0x34)),
            _ => {}
        }
    }

    fn write_common(&mut self, offset: u64, data: &[u8]) {
        match data.len() {
            1 if offset == 0x14 => self.set_status(data.first().copied().unwrap_or(0)),
            2 => {
                if let Some(value) = written(data) {
                    self.write_common16(offset, u16::from_le_bytes(value));
                }
            }
            4 => {
                if let Some(value) = written(data) {
                    self.write_common32(offset, u32::from_le_bytes(value));
                }
            }
            // Addresses may be written whole.
            8 if matches!(offset, 0x20 | 0x28 | 0x30) => {
                let (low, high) = data.split_at(4);
                self.write_common(offset, low);
                self.write_common(offset + 4, high);
            }
            _ => {}
        }
    }

    fn write_common16(&mut self, offset: u64, value: u16) {
        match offset {
            0x10 => self.wires.config_vector = self.known(value),
            0x16 => self.core.queue_select = value,
            0x18 => self.core.set_queue_size(value),
            0x1a => {
                let (vector, queue) = (self.known(value), usize::from(self.core.queue_select));
                if let Some(v) = self.wires.queue_vectors.get_mut(queue) {
                    *v = vector;
                }
            }
            // Only 1 may be written (4.1.4.3.2).
            0x1c if value == 1 => self.core.enable_queue(true),
            _ => {}
        }
    }

    fn write_common32(&mut self, offset: u64, value: u32) {
        match offset {
            0x00 => self.core.device_features_select = value,
            0x08 => self.core.driver_features_select = value,
            0x0c => self.core.accept_features(value),
            0x20 | 0x24 => self.core.place_queue(Part::Desc, offset == 0x24, value),
            0x28 | 0x2c => self.core.place_queue(Part::Avail, offset == 0x2c, value),
            0x30 | 0x34 => self.core.place_queue(Part::Used, offset == 0x34, value),
            _ => {}
        }
    }

    /// A vector that is not there reads back as none, by which the driver knows (4.1.5.1.2.1).
    fn known(&self, vector: u16) -> u16 {
        if self.wires.msix.has(vector) { vector } else { NO_VECTOR }
    }

    fn queue_count(&self) -> u16 {
        u16::try_from(self.wires.queue_vectors.len()).unwrap_or(u16::MAX)
    }

    fn queue_vector(&self) -> u16 {
        let queue = usize::from(self.core.queue_select);
        self.wires.queue_vectors.get(queue).copied().unwrap_or(NO_VECTOR)
    }

    /// The data window of CAP_PCI (4.1.4.9): into which BAR it looks and where, if at a place where an access may be.
    fn window(&self) -> Option<(u8, u64, usize)> {
        let mut bar = [0];
        self.space.read(self.window_at + WINDOW_BAR, &mut bar);
        let offset = u64::from(self.space.u32_at(self.window_at + WINDOW_OFFSET));
        let length = self.space.u32_at(self.window_at + WINDOW_LENGTH);
        let sound = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length.into());
        sound.then_some((bar[0], offset, length as usize))
    }
}

fn half(address: u64, high: bool) -> [u8; 4] {
    let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
    if high { [e, f, g, h] } else { [a, b, c, d] }
}

fn identity(kind: u32) -> Identity {
    let device = FIRST_DEVICE_ID.saturating_add(u16::try_from(kind).unwrap_or(0));
    let class = match kind {
        spec::device::NET => [0x02, 0x00, 0x00], // network controller, Ethernet
        spec::device::CONSOLE => [0x07, 0x80, 0x00], // simple communication controller, other
        _ => [0xff, 0x00, 0x00],                 // unassigned: drivers go by the id
    };
    Identity { id: (VENDOR, device), class, revision: REVISION, subsystem: (VENDOR, device) }
}

/// Writes the capabilities; where the bodies of MSI-X and of the data window are.
fn describe(
    space: &mut ConfigSpace,
    msix: &Msix,
    (config_len, region): (u32, Option<u64>),
) -> Option<(usize, usize)> {
    let vendor = |kind: u8, bar: u8, (offset, len): (u32, u32), more: &[u8]| {
        // Length with id and link; type, BAR, id, padding; offset, length (4.1.4).
        let mut body = vec![u8::try_from(16 + more.len()).unwrap_or(u8::MAX), kind, bar, 0, 0, 0];
        body.extend(offset.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(more);
        body
    };
    space.add_capability(CAP_VENDOR, &vendor(CAP_COMMON, REGISTERS_BAR, COMMON, &[]), &[])?;
    space.add_capability(CAP_VENDOR, &vendor(CAP_ISR, REGISTERS_BAR, ISR, &[]), &[])?;
    if config_len > 0 {
        space.add_capability(
            CAP_VENDOR,
            &vendor(CAP_DEVICE, REGISTERS_BAR, (DEVICE.0, config_len), &[]),
            &[],
        )?;
    }
    for (bar, place) in [(DOORBELL_BAR, NOTIFY), (REGISTERS_BAR, NOTIFY_IN_MEMORY)] {
        let doorbell = vendor(CAP_NOTIFY, bar, place, &NOTIFY_STRIDE.to_le_bytes());
        space.add_capability(CAP_VENDOR, &doorbell, &[])?;
    }
    if let Some(len) = region {
        // Offset and length have upper halves, behind (4.1.4.7). The id is 0.
        let upper = [0, word(len, 1)].map(u32::to_le_bytes).concat();
        let region = vendor(CAP_SHARED_MEMORY, REGION_BAR, (0, word(len, 0)), &upper);
        space.add_capability(CAP_VENDOR, &region, &[])?;
    }
    let mut mask = [0; 18];
    // BAR, offset, length and data are the driver's to write.
    mask[WINDOW_BAR] = 0xff;
    mask[WINDOW_OFFSET..].fill(0xff);
    let window = space.add_capability(CAP_VENDOR, &vendor(CAP_PCI, REGISTERS_BAR, (0, 0), &[0; 4]), &mask)?;
    let (body, mask) = msix.capability(TABLE.0, PENDING.0);
    Some((space.add_capability(msix::CAPABILITY, &body, &mask)?, window))
}

/// The offset into `region`, if `offset` lies in it.
fn inside(offset: u64, (base, len): (u32, u32)) -> Option<u64> {
    offset.checked_sub(base.into()).filter(|at| *at < len.into())
}

impl BusDevice for PciTransport {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        if let Some(at) = inside(offset, COMMON) {
            self.read_common(at, out);
        } else if inside(offset, ISR).is_some() {
            // Reading clears it (4.1.4.5).
            answer(out, [self.wires.isr.swap(0, Ordering::AcqRel)]);
        } else if let Some(at) = inside(offset, DEVICE) {
            self.core.read_config(at, out);
        } else if let Some(at) = inside(offset, TABLE) {
            self.wires.msix.read_table(at, out);
        } else if let Some(at) = inside(offset, PENDING) {
            self.wires.msix.read_pending(at, out);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = inside(offset, COMMON) {
            self.write_common(at, data);
        } else if let Some(at) = inside(offset, DEVICE) {
            self.core.write_config(at, data);
        } else if let Some(at) = inside(offset, TABLE) {
            self.wires.msix.write_table(at, data);
        } else if let Some(at) = inside(offset, NOTIFY_IN_MEMORY) {
            self.ring(at, data);
        }
    }
}

impl PciFunction for PciTransport {
    fn read_config_space(&mut self, offset: usize, out: &mut [u8]) {
        let data = self.window_at + WINDOW_DATA;
        if (data..data + 4).contains(&offset)
            && let Some((bar, at, len)) = self.window()
        {
            let mut value = [0; 4];
            if bar == REGISTERS_BAR {
                self.read(at, value.get_mut(..len).unwrap_or_default());
            }
            self.space.put(data, &value);
        }
        self.space.read(offset, out);
    }

    fn write_config_space(&mut self, offset: usize, data: &[u8]) {
        self.space.write(offset, data);
        let (control, window) = (self.msix_at, self.window_at + WINDOW_DATA);
        if offset < control + 2 && control < offset + data.len() {
            self.wires.msix.set_control(self.space.u16_at(control));
        }
        if (window..window + 4).contains(&offset)
            && let Some((bar, at, len)) = self.window()
        {
            let value = self.space.u32_at(window).to_le_bytes();
            let value = value.get(..len).unwrap_or_default();
            match bar {
                REGISTERS_BAR => self.write(at, value),
                DOORBELL_BAR => self.write_ports(at, value),
                _ => {}
            }
        }
    }

    fn write_ports(&mut self, offset: u64, data: &[u8]) {
        self.ring(offset, data);
    }

    fn decoded(&self) -> Decoded {
        self.space.decoded()
    }

    fn moved(&mut self, mapped: Decoded) {
        let before = std::mem::replace(&mut self.wires.seen, mapped);
        // Registers are found by their bus.
        let same = before.ports == mapped.ports && before.region == mapped.region;
        if !same {
            self.core.moved(&self.wires);
        }
    }
}
