//! An address space of devices: one [`Bus`] for ports (PIO), one for memory-mapped registers (MMIO).
//!
//! # Lock order
//! A bus lock is held only to look a device up or to change the map, never while a device runs. A device may
//! therefore change the map from inside an access (a PCI BAR that moves), and two vCPUs wait for each other
//! only at the same device. Order: device, then bus.

use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use crate::addr::AddrRange;

/// Registers that a vCPU reads and writes. The bus has already checked that the access lies inside the
/// device's range; any length from 1 to 8 and any alignment may arrive.
pub trait BusDevice: Send {
    /// Fills `out` with what the guest reads at `offset` from the range's base. `out` comes filled with ones,
    /// which is what an absent register reads.
    fn read(&mut self, offset: u64, out: &mut [u8]);

    /// Takes what the guest wrote at `offset` from the range's base.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device as the bus holds it.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Why a range could not be put on the bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// Another device has some of these addresses.
    #[error("addresses {wanted} meet {taken}, which another device has")]
    Overlap {
        /// What was asked for.
        wanted: AddrRange,
        /// What stands in the way.
        taken: AddrRange,
    },
}

struct Mapping {
    range: AddrRange,
    device: SharedDevice,
}

/// A sorted map from addresses to devices, cheap to clone and to share among vCPUs.
#[derive(Clone, Default)]
pub struct Bus {
    map: Arc<RwLock<Vec<Mapping>>>,
}

/// A bus as a device on it may know it: without keeping it alive, or neither would ever go.
#[derive(Clone, Default)]
pub struct WeakBus(Weak<RwLock<Vec<Mapping>>>);

impl WeakBus {
    /// The bus, unless it has gone.
    pub fn upgrade(&self) -> Option<Bus> {
        self.0.upgrade().map(|map| Bus { map })
    }
}

impl Bus {
    /// What a device on this bus may keep of it.
    pub fn downgrade(&self) -> WeakBus {
        WeakBus(Arc::downgrade(&self.map))
    }

    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at `range`.
    pub fn insert(&self, range: AddrRange, device: SharedDevice) -> Result<(), BusError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(m) = map.iter().find(|m| m.range.overlaps(&range)) {
            return Err(BusError::Overlap { wanted: range, taken: m.range });
        }
        let at = map.partition_point(|m| m.range.base() < range.base());
        map.insert(at, Mapping { range, device });
        Ok(())
    }

    /// Takes the device at exactly `range` off the bus; `None` when there is none.
    pub fn remove(&self, range: AddrRange) -> Option<SharedDevice> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let at = map.iter().position(|m| m.range == range)?;
        Some(map.remove(at).device)
    }

    /// A guest's read. Where no device is, `out` reads all ones, as a PC's floating bus does.
    /// Returns whether a device answered.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> bool {
        out.fill(0xff);
        let Some((offset, device)) = self.find(addr, out.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, out);
        true
    }

    /// A guest's write; where no device is, it is lost. Returns whether a device answered.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        let Some((offset, device)) = self.find(addr, data.len()) else { return false };
        device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        true
    }

    fn find(&self, addr: u64, len: usize) -> Option<(u64, SharedDevice)> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        let at = map.partition_point(|m| m.range.base() <= addr).checked_sub(1)?;
        let m = map.get(at)?;
        m.range.contains(addr, len as u64).then(|| (addr - m.range.base(), m.device.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(Vec<(u64, Vec<u8>)>);
    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, out: &mut [u8]) {
            out.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn echo() -> Arc<Mutex<Echo>> {
        Arc::new(Mutex::new(Echo(Vec::new())))
    }

    fn range(base: u64, len: u64) -> AddrRange {
        AddrRange::new(base, len).expect("a range")
    }

    #[test]
    fn an_access_reaches_its_device_at_an_offset_from_the_base() {
        let (bus, dev) = (Bus::new(), echo());
        bus.insert(range(0x100, 0x10), dev.clone()).expect("free");
        assert!(bus.write(0x104, &[1, 2]));
        let mut out = [0; 2];
        assert!(bus.read(0x10e, &mut out));
        assert_eq!(out, [0xe, 0xe]);
        assert_eq!(dev.lock().expect("lock").0, [(4, vec![1, 2])]);
    }

    #[test]
    fn an_access_that_straddles_the_end_or_meets_nothing_reads_ones() {
        let bus = Bus::new();
        bus.insert(range(0x100, 0x10), echo()).expect("free");
        for addr in [0x10f, 0xff, 0x110, u64::MAX] {
            let mut out = [0; 2];
            assert!(!bus.read(addr, &mut out));
            assert_eq!(out, [0xff, 0xff]);
        }
    }

    #[test]
    fn overlapping_devices_are_refused_and_removed_ones_make_room() {
        let bus = Bus::new();
        bus.insert(range(0x100, 0x10), echo()).expect("free");
        assert!(bus.insert(range(0x10f, 1), echo()).is_err());
        assert!(bus.remove(range(0x100, 0x10)).is_some());
        assert!(bus.insert(range(0x10f, 1), echo()).is_ok());
    }
}
