//! The root complex: one bus of 32 devices behind an ECAM (PCI Express 5.0, 7.2.2).
//!
//! 1. Functions are plugged before the guest runs; each gets the next free device number behind the host bridge.
//! 2. A configuration access finds its function by address.
//! 3. A write that moves a BAR moves the function's registers on the bus, with their doorbells.

use std::sync::{Arc, Mutex, PoisonError};

use super::bridge::HostBridge;
use super::config::SIZE;
use super::{Decoded, PciFunction};
use crate::addr::AddrRange;
use crate::bus::{Bus, BusDevice, BusError, SharedDevice, WeakBus};

/// Devices on a bus.
pub const SLOTS: u8 = 32;
/// Functions of a device.
const FUNCTIONS: u64 = 8;
/// A device's share of the ECAM.
const STRIDE: u64 = SIZE as u64 * FUNCTIONS;

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    memory: Face,
    ports: Face,
    /// On no bus: where the function was told that it is.
    region: Option<AddrRange>,
}

/// What a BAR shows, and where it is on its bus.
struct Face {
    registers: SharedDevice,
    mapped: Option<AddrRange>,
}

/// A function's ports.
struct Ports(Arc<Mutex<dyn PciFunction>>);

impl BusDevice for Ports {
    fn read(&mut self, _offset: u64, out: &mut [u8]) {
        out.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_ports(offset, data);
    }
}

/// The bus's configuration space.
pub struct Root {
    memory: WeakBus,
    ports: WeakBus,
    slots: Vec<Slot>,
}

impl Root {
    /// A bus 0 whose functions' BARs are put on these buses, of memory and of ports. Its host bridge shows itself once
    /// there is another function: a kernel's early quirks read more of a device that is there.
    pub fn new(memory: &Bus, ports: &Bus) -> Self {
        let bridge = Slot::new(HostBridge::default());
        Self { memory: memory.downgrade(), ports: ports.downgrade(), slots: vec![bridge] }
    }

    /// Whether nothing has been plugged.
    pub fn is_empty(&self) -> bool {
        self.slots.len() <= 1
    }

    /// Plugs `function` as the next device; gives its number, or `None` when all 32 are taken.
    ///
    /// # Errors
    /// A BAR lies where another device does.
    pub fn plug<F: PciFunction + 'static>(&mut self, function: F) -> Result<Option<u8>, BusError> {
        let device = u8::try_from(self.slots.len()).ok().filter(|n| *n < SLOTS);
        if device.is_none() {
            return Ok(None);
        }
        let decoded = function.decoded();
        let mut slot = Slot::new(function);
        if let (Some(memory), Some(ports)) = (self.memory.upgrade(), self.ports.upgrade()) {
            slot.memory.put(&memory, decoded.memory)?;
            slot.ports.put(&ports, decoded.ports)?;
            slot.region = decoded.region;
        }
        self.slots.push(slot);
        Ok(device)
    }

    /// The function an offset into the ECAM belongs to, and the offset into its configuration space. Functions other
    /// than 0 are not there.
    fn find(&mut self, offset: u64, len: usize) -> Option<(&mut Slot, usize)> {
        if self.is_empty() {
            return None;
        }
        let (device, inside) = (usize::try_from(offset / STRIDE).ok()?, offset % STRIDE);
        let inside =
            usize::try_from(inside).ok().filter(|at| at.checked_add(len).is_some_and(|end| end <= SIZE))?;
        Some((self.slots.get_mut(device)?, inside))
    }
}

impl BusDevice for Root {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        out.fill(0xff);
        if let Some((slot, at)) = self.find(offset, out.len()) {
            slot.function.lock().unwrap_or_else(PoisonError::into_inner).read_config_space(at, out);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (Some(memory), Some(ports)) = (self.memory.upgrade(), self.ports.upgrade()) else { return };
        let Some((slot, at)) = self.find(offset, data.len()) else { return };
        let decoded = {
            let mut function = slot.function.lock().unwrap_or_else(PoisonError::into_inner);
            function.write_config_space(at, data);
            function.decoded()
        };
        if decoded != slot.mapped() {
            slot.remap(&memory, &ports, decoded);
        }
    }
}

impl Slot {
    fn new<F: PciFunction + 'static>(function: F) -> Self {
        let function = Arc::new(Mutex::new(function));
        let ports = Arc::new(Mutex::new(Ports(function.clone())));
        Self {
            memory: Face { registers: function.clone(), mapped: None },
            ports: Face { registers: ports, mapped: None },
            region: None,
            function,
        }
    }

    /// Lock order: the function's lock is not held while a bus changes.
    fn remap(&mut self, memory: &Bus, ports: &Bus, to: Decoded) {
        for done in [self.memory.put(memory, to.memory), self.ports.put(ports, to.ports)] {
            if let Err(why) = done {
                crate::warn_of_guest!("a PCI function's registers cannot be there: {why}");
            }
        }
        self.region = to.region;
        let mapped = self.mapped();
        self.function.lock().unwrap_or_else(PoisonError::into_inner).moved(mapped);
    }

    fn mapped(&self) -> Decoded {
        Decoded { memory: self.memory.mapped, ports: self.ports.mapped, region: self.region }
    }
}

impl Face {
    /// Puts it at `to`, if anywhere, wherever it was before.
    fn put(&mut self, bus: &Bus, to: Option<AddrRange>) -> Result<(), BusError> {
        if self.mapped == to {
            return Ok(());
        }
        if let Some(old) = self.mapped.take() {
            bus.remove(old);
        }
        if let Some(range) = to {
            bus.insert(range, self.registers.clone())?;
            self.mapped = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::config::{ConfigSpace, Identity};

    /// A function whose registers read as a number of its own.
    struct Numbered(ConfigSpace, u8, Arc<Mutex<u32>>);
    impl BusDevice for Numbered {
        fn read(&mut self, _: u64, out: &mut [u8]) {
            out.fill(self.1);
        }
        fn write(&mut self, _: u64, _: &[u8]) {}
    }
    impl PciFunction for Numbered {
        fn read_config_space(&mut self, offset: usize, out: &mut [u8]) {
            self.0.read(offset, out);
        }
        fn write_config_space(&mut self, offset: usize, data: &[u8]) {
            self.0.write(offset, data);
        }
        fn write_ports(&mut self, offset: u64, data: &[u8]) {
            assert_eq!((offset, data), (2, &[7, 0][..]));
            self.1 = 99;
        }
        fn decoded(&self) -> Decoded {
            self.0.decoded()
        }
        fn moved(&mut self, _: Decoded) {
            *self.2.lock().expect("count") += 1;
        }
    }

    fn function(number: u8, bar: u32) -> (Numbered, Arc<Mutex<u32>>) {
        let identity = Identity { id: (1, 2), class: [0xff, 0, 0], revision: 0, subsystem: (0, 0) };
        let moves = Arc::new(Mutex::new(0));
        let space =
            ConfigSpace::new(identity).with_memory(bar, 0x1000).with_ports(0xc000 + 4 * u16::from(number), 4);
        (Numbered(space, number, moves.clone()), moves)
    }

    fn at(bus: &Bus, addr: u64) -> u8 {
        let mut out = [0];
        bus.read(addr, &mut out);
        out[0]
    }

    #[test]
    fn a_bar_that_the_guest_moves_takes_its_registers_along() {
        let (bus, ports) = (Bus::new(), Bus::new());
        let mut root = Root::new(&bus, &ports);
        let (first, moves) = function(1, 0xc000_0000);
        assert!(root.is_empty());
        assert_eq!(root.plug(first).expect("free"), Some(1));
        assert_eq!(root.plug(function(2, 0xc000_1000).0).expect("free"), Some(2));
        assert_eq!((at(&bus, 0xc000_0000), at(&bus, 0xc000_1000)), (1, 2));
        root.write(STRIDE + 0x10, &0xd000_0000u32.to_le_bytes());
        assert_eq!((at(&bus, 0xc000_0000), at(&bus, 0xd000_0fff)), (0xff, 1));
        assert_eq!(*moves.lock().expect("count"), 1);
        // On top of the other one: decoded nowhere, and the other one stays.
        root.write(STRIDE + 0x10, &0xc000_1000u32.to_le_bytes());
        assert_eq!((at(&bus, 0xd000_0000), at(&bus, 0xc000_1000)), (0xff, 2));
        root.write(STRIDE + 4, &[0, 0]);
        root.write(STRIDE + 0x10, &0xd000_0000u32.to_le_bytes());
        assert_eq!(at(&bus, 0xd000_0000), 0xff, "memory decoding is off");
    }

    #[test]
    fn ports_that_the_guest_moves_lead_to_their_function() {
        let (bus, ports) = (Bus::new(), Bus::new());
        let mut root = Root::new(&bus, &ports);
        let (function, moves) = function(1, 0xc000_0000);
        root.plug(function).expect("free");
        assert_eq!(at(&ports, 0xc006), 0);
        root.write(STRIDE + 0x14, &0xd001u32.to_le_bytes());
        assert!(ports.write(0xd002, &[7, 0]));
        assert!(!ports.write(0xc006, &[7, 0]));
        assert_eq!((at(&bus, 0xc000_0000), *moves.lock().expect("count")), (99, 1));
        // On top of a device that is there: decoded nowhere until that has gone.
        ports
            .insert(AddrRange::new(0x3f8, 8).expect("a range"), Arc::new(Mutex::new(HostBridge::default())))
            .expect("free");
        root.write(STRIDE + 0x14, &0x3f9u32.to_le_bytes());
        assert_eq!((at(&ports, 0xd002), at(&ports, 0x3f8)), (0xff, 0xff));
        ports.remove(AddrRange::new(0x3f8, 8).expect("a range"));
        root.write(STRIDE + 4, &[3, 0]);
        assert_eq!(at(&ports, 0x3f8), 0);
        root.write(STRIDE + 0x14, &0xd001u32.to_le_bytes());
        assert_eq!(at(&ports, 0xd002), 0);
        root.write(STRIDE + 4, &[2, 0]);
        assert!(!ports.write(0xd002, &[7, 0]), "decoding of ports is off");
    }

    #[test]
    fn places_without_a_function_read_ones_and_a_full_bus_says_so() {
        let (bus, ports) = (Bus::new(), Bus::new());
        let mut root = Root::new(&bus, &ports);
        let mut id = [0; 4];
        for offset in [STRIDE, 0x1000, 0xf_f000, u64::MAX] {
            root.read(offset, &mut id);
            assert_eq!(id, [0xff; 4]);
            root.write(offset, &id);
        }
        root.read(0, &mut id);
        assert_eq!(id, [0xff; 4], "no bridge to nothing");
        for n in 1..32u8 {
            let plugged = root.plug(function(n, 0xc000_0000 + u32::from(n) * 0x1000).0);
            assert_eq!(plugged.expect("free"), Some(n));
        }
        assert_eq!(root.plug(function(1, 0xd000_0000).0).expect("free"), None);
        root.read(0, &mut id);
        assert_eq!(id, [0x36, 0x1b, 8, 0], "the host bridge");
    }
}
