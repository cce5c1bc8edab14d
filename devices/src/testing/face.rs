//! A driver over either transport: the same steps, by that transport's registers.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Doorbells, Messages, Regions, Ring, ram};
use crate::bus::BusDevice;
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::pci::PciFunction;
use crate::virtio::VirtioDevice;
use crate::virtio::spec::{feature, status};
use crate::virtio::transport::Host;
use crate::virtio::transport::mmio::MmioTransport;
use crate::virtio::transport::pci::PciTransport;

/// Which transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Mmio,
    Pci,
}

enum Face {
    /// With what stands for its interrupt: ours, and the one that is lent.
    Mmio(Box<MmioTransport>, [EventFd; 2]),
    Pci(Box<PciTransport>, Messages),
}

/// Where the BARs would be; the registers are reached without a bus here.
const BARS: (u32, u16, Option<u64>) = (0xc000_0000, 0xc000, Some(REGION));
/// Where a shared memory region is shown, if there is one.
pub const REGION: u64 = 0x10_0000_0000;
/// Offsets of the PCI face's parts in its window (they are told by capabilities, which the guest's driver reads): the
/// BAR of memory, and behind it the ports.
const PCI_DEVICE: u64 = 0x1000;
const PCI_NOTIFY: u64 = 0x4000;
/// Where rings are put, far enough apart for the largest of them.
const RINGS: u64 = 0x1000_0000;
const RING_ROOM: u64 = 0x1_0000;

/// A driver, its device and the memory both use.
pub struct Driver {
    face: Face,
    pub ram: GuestRam,
    pub rings: Vec<Ring>,
    /// What the hypervisor was asked to take.
    pub doorbells: Doorbells,
    /// And what to show.
    pub regions: Regions,
    /// Over PCI, each queue's vector.
    vectors: Vec<u16>,
}

impl Driver {
    /// A driver that has done nothing yet.
    pub fn new(device: Box<dyn VirtioDevice>, over: Over) -> Self {
        let ram = ram();
        let sizes = device.profile().queue_sizes;
        let doorbells = Doorbells::default();
        let regions = Regions::default();
        let host = Host {
            ram: ram.clone(),
            doorbells: Arc::new(doorbells.clone()),
            regions: Arc::new(regions.clone()),
        };
        let face = match over {
            Over::Mmio => {
                let events = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
                let [ours, lent] = [&events[0], &events[1]].map(|event| event.try_clone().expect("a clone"));
                let call = Interrupt::from_eventfd(ours).with_lent(lent);
                let transport = MmioTransport::new(device, host, (0xfe00_0000, Some(REGION)), call);
                Face::Mmio(Box::new(transport), events)
            }
            Over::Pci => {
                let messages = Messages::default();
                let transport = PciTransport::new(device, host, BARS, &messages).expect("a transport");
                Face::Pci(Box::new(transport), messages)
            }
        };
        let rings = (0..)
            .zip(&sizes)
            .map(|(i, max)| Ring::new(&ram, (*max).min(256), RINGS + i * RING_ROOM))
            .collect();
        let vectors = vec![0; sizes.len()];
        Self { face, ram, rings, doorbells, regions, vectors }
    }

    fn device(&mut self) -> &mut dyn BusDevice {
        match &mut self.face {
            Face::Mmio(t, _) => &mut **t,
            Face::Pci(t, _) => &mut **t,
        }
    }

    /// Bytes of the register window.
    pub fn window(&self) -> u64 {
        match self.face {
            Face::Mmio(..) => 0x1000,
            Face::Pci(..) => PCI_NOTIFY + 4,
        }
    }

    /// A raw read of the register window.
    pub fn peek(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0xaa; len];
        self.device().read(offset, &mut out);
        out
    }

    /// A raw write to the register window.
    pub fn poke(&mut self, offset: u64, data: &[u8]) {
        match (&mut self.face, offset.checked_sub(PCI_NOTIFY)) {
            (Face::Pci(t, _), Some(port)) => t.write_ports(port, data),
            _ => self.device().write(offset, data),
        }
    }

    /// A raw read of configuration space, where there is one.
    pub fn peek_space(&mut self, offset: usize, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        if let Face::Pci(t, _) = &mut self.face {
            t.read_config_space(offset, &mut out);
        }
        out
    }

    /// A raw write to configuration space, where there is one.
    pub fn poke_space(&mut self, offset: usize, data: &[u8]) {
        if let Face::Pci(t, _) = &mut self.face {
            t.write_config_space(offset, data);
            t.read_config_space(offset, &mut vec![0; data.len()]);
            let decoded = t.decoded();
            t.moved(decoded);
        }
    }

    fn read(&mut self, mmio: u64, pci: u64, pci_len: usize) -> u32 {
        let (at, len) = if matches!(self.face, Face::Mmio(..)) { (mmio, 4) } else { (pci, pci_len) };
        let mut raw = self.peek(at, len);
        raw.resize(4, 0);
        u32::from_le_bytes(raw.try_into().expect("four bytes"))
    }

    fn write(&mut self, mmio: u64, pci: u64, pci_len: usize, value: u32) {
        let raw = value.to_le_bytes();
        if matches!(self.face, Face::Mmio(..)) {
            self.poke(mmio, &raw);
        } else {
            self.poke(pci, &raw[..pci_len]);
        }
    }

    pub fn status(&mut self) -> u8 {
        self.read(0x70, 0x14, 1).to_le_bytes()[0]
    }

    pub fn set_status(&mut self, value: u8) {
        self.write(0x70, 0x14, 1, value.into());
    }

    pub fn offered(&mut self) -> u64 {
        let word = |driver: &mut Self, select| {
            driver.write(0x14, 0x00, 4, select);
            u64::from(driver.read(0x10, 0x04, 4))
        };
        word(self, 0) | word(self, 1) << 32
    }

    /// Accepts the 32 feature bits that `select` names.
    pub fn accept_word(&mut self, select: u32, bits: u32) {
        self.write(0x24, 0x08, 4, select);
        self.write(0x20, 0x0c, 4, bits);
    }

    pub fn accept(&mut self, features: u64) {
        self.accept_word(0, (features & 0xffff_ffff) as u32);
        self.accept_word(1, (features >> 32) as u32);
    }

    pub fn select_queue(&mut self, queue: u16) {
        self.write(0x30, 0x16, 2, queue.into());
    }

    pub fn set_queue_size(&mut self, size: u16) {
        self.write(0x38, 0x18, 2, size.into());
    }

    pub fn place_queue(&mut self, [desc, avail, used]: [u64; 3]) {
        for (mmio, pci, address) in [(0x80, 0x20, desc), (0x90, 0x28, avail), (0xa0, 0x30, used)] {
            self.write(mmio, pci, 4, (address & 0xffff_ffff) as u32);
            self.write(mmio + 4, pci + 4, 4, (address >> 32) as u32);
        }
    }

    pub fn enable_queue(&mut self) {
        self.write(0x44, 0x1c, 2, 1);
    }

    pub fn queue_is_enabled(&mut self) -> bool {
        self.read(0x44, 0x1c, 2) == 1
    }

    pub fn notify(&mut self, queue: u16) {
        self.write(0x50, PCI_NOTIFY, 2, queue.into());
    }

    pub fn config(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let base = if matches!(self.face, Face::Mmio(..)) { 0x100 } else { PCI_DEVICE };
        self.peek(base + offset, len)
    }

    /// Interrupts since the last call: of `queue`, or of whatever there is over MMIO.
    pub fn interrupts(&mut self, queue: u16) -> u64 {
        match &self.face {
            Face::Mmio(_, events) => events.iter().map(|event| event.read().unwrap_or(0)).sum(),
            Face::Pci(_, messages) => messages.signals(self.vectors[usize::from(queue)].into()),
        }
    }

    /// Status up to FEATURES_OK, accepting what is offered of `wanted` (and version 1).
    pub fn negotiate(&mut self, wanted: u64) {
        self.set_status(0);
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::ACKNOWLEDGE | status::DRIVER);
        let features = self.offered() & (wanted | 1 << feature::VERSION_1);
        self.accept(features);
        let value = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.set_status(value);
        assert_eq!(self.status(), value, "FEATURES_OK");
    }

    /// Lays out and enables all queues, with a vector each, or with one for all where there are no more.
    pub fn set_up_queues(&mut self) {
        for queue in 0..self.rings.len() as u16 {
            let ring = &mut self.rings[usize::from(queue)];
            ring.clear();
            let layout = ring.layout;
            self.select_queue(queue);
            self.set_queue_size(layout.size);
            self.place_queue([layout.desc, layout.avail, layout.used]);
            if matches!(self.face, Face::Pci(..)) {
                self.vectors[usize::from(queue)] = self.take_vector(queue + 1).expect("a vector");
            }
            self.enable_queue();
            assert!(self.queue_is_enabled(), "queue {queue}");
        }
    }

    /// Gives the selected queue `vector` if there is one, else the first after the configuration's.
    fn take_vector(&mut self, vector: u16) -> Option<u16> {
        let mut take = |vector: u16| {
            self.poke(0x1a, &vector.to_le_bytes());
            (self.peek(0x1a, 2) == vector.to_le_bytes()).then_some(vector)
        };
        take(vector).or_else(|| take(1))
    }

    /// Goes all the way: afterwards the device is live.
    pub fn start(&mut self, wanted: u64) {
        self.negotiate(wanted);
        self.set_up_queues();
        self.drive();
    }

    /// DRIVER_OK.
    pub fn drive(&mut self) {
        let value = self.status() | status::DRIVER_OK;
        self.set_status(value);
    }
}
