//! The root complex: one bus of 32 devices behind an ECAM (PCI Express 5.0, 7.2.2).
//!
//! 1. Functions are plugged before the guest runs; each gets the next free device number.
//! 2. A configuration access finds its function by address.
//! 3. A write that moves a BAR moves the function's registers on the bus, with their doorbells.

use std::sync::{Arc, Mutex, PoisonError};

use super::PciFunction;
use super::config::SIZE;
use crate::addr::AddrRange;
use crate::bus::{Bus, BusDevice, BusError, SharedDevice};

/// Devices on a bus.
pub const SLOTS: u8 = 32;
/// Functions of a device.
const FUNCTIONS: u64 = 8;
/// A device's share of the ECAM.
const STRIDE: u64 = SIZE as u64 * FUNCTIONS;

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    registers: SharedDevice,
    mapped: Option<AddrRange>,
}

/// The bus's configuration space.
pub struct Root {
    bus: Bus,
    slots: Vec<Option<Slot>>,
}

impl Root {
    /// An empty bus 0, whose functions' BARs are put on `bus`.
    pub fn new(bus: Bus) -> Self {
        // Device 0 stays free: that is where a host bridge would be.
        Self { bus, slots: std::iter::once(None).collect() }
    }

    /// Whether nothing has been plugged.
    pub fn is_empty(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }

    /// Plugs `function` as the next device; gives its number, or `None` when all 32 are taken.
    ///
    /// # Errors
    /// Its BAR lies where another device does.
    pub fn plug<F: PciFunction + 'static>(&mut self, function: F) -> Result<Option<u8>, BusError> {
        let device = u8::try_from(self.slots.len()).ok().filter(|n| *n < SLOTS);
        if device.is_none() {
            return Ok(None);
        }
        let mapped = function.decoded();
        let function = Arc::new(Mutex::new(function));
        let registers: SharedDevice = function.clone();
        if let Some(range) = mapped {
            self.bus.insert(range, registers.clone())?;
        }
        self.slots.push(Some(Slot { function, registers, mapped }));
        Ok(device)
    }

    /// The function an offset into the ECAM belongs to, and the offset into its configuration space. Functions other
    /// than 0 are not there.
    fn find(&mut self, offset: u64, len: usize) -> Option<(&mut Slot, usize)> {
        let (device, inside) = (usize::try_from(offset / STRIDE).ok()?, offset % STRIDE);
        let inside =
            usize::try_from(inside).ok().filter(|at| at.checked_add(len).is_some_and(|end| end <= SIZE))?;
        Some((self.slots.get_mut(device)?.as_mut()?, inside))
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
        let bus = self.bus.clone();
        let Some((slot, at)) = self.find(offset, data.len()) else { return };
        let decoded = {
            let mut function = slot.function.lock().unwrap_or_else(PoisonError::into_inner);
            function.write_config_space(at, data);
            function.decoded()
        };
        if decoded != slot.mapped {
            slot.remap(&bus, decoded);
        }
    }
}

impl Slot {
    /// Lock order: the function's lock is not held while the bus changes.
    fn remap(&mut self, bus: &Bus, to: Option<AddrRange>) {
        if let Some(old) = self.mapped.take() {
            bus.remove(old);
        }
        if let Some(range) = to {
            match bus.insert(range, self.registers.clone()) {
                Ok(()) => self.mapped = Some(range),
                Err(why) => crate::warn_of_guest!("a PCI function's registers cannot be there: {why}"),
            }
        }
        self.function.lock().unwrap_or_else(PoisonError::into_inner).moved();
    }
}
