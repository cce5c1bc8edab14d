//! Configuration mechanism 1 (PCI 3.0, 3.2.2.3.2): an address port and a data port, eight bytes together.
//!
//! Linux looks for it before it believes in an ECAM, and then uses it for the first 256 bytes of configuration space.

use crate::bus::{BusDevice, SharedDevice};
use std::sync::PoisonError;

const ADDRESS: u64 = 0;
const DATA: u64 = 4;
/// The data port leads to configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits of an address: bus 23-16, device 15-11, function 10-8, register 7-2.
const BUS: u32 = 0xff << 16;
const DEVICE_FUNCTION: u32 = 0xff00;
const REGISTER: u32 = 0xfc;

/// The two ports, in front of the ECAM.
pub struct ConfigPorts {
    ecam: SharedDevice,
    address: u32,
}

impl ConfigPorts {
    /// Ports that lead to what `ecam` shows.
    pub fn new(ecam: SharedDevice) -> Self {
        Self { ecam, address: 0 }
    }

    /// Where in the ECAM a data access goes; `None` when it goes nowhere.
    fn target(&self, offset: u64, len: usize) -> Option<u64> {
        let byte = offset.checked_sub(DATA).filter(|at| at + len as u64 <= 4)?;
        let here = self.address & ENABLE != 0 && self.address & BUS == 0;
        // A function has 4 KiB there and 256 bytes here.
        let function = u64::from(self.address & DEVICE_FUNCTION) << 4;
        here.then(|| function | u64::from(self.address & REGISTER) | byte)
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        out.fill(0xff);
        if let Some(at) = self.target(offset, out.len()) {
            self.ecam.lock().unwrap_or_else(PoisonError::into_inner).read(at, out);
        } else if let (ADDRESS, Ok(out)) = (offset, <&mut [u8; 4]>::try_from(out)) {
            *out = self.address.to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = self.target(offset, data.len()) {
            self.ecam.lock().unwrap_or_else(PoisonError::into_inner).write(at, data);
        } else if let (ADDRESS, Ok(raw)) = (offset, <[u8; 4]>::try_from(data)) {
            self.address = u32::from_le_bytes(raw);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Reads as the low byte of the offset, notes what is written.
    #[derive(Default)]
    struct Ecam(Vec<(u64, Vec<u8>)>);
    impl BusDevice for Ecam {
        fn read(&mut self, offset: u64, out: &mut [u8]) {
            out.fill(offset.to_le_bytes()[0]);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0.push((offset, data.to_vec()));
        }
    }

    fn ports() -> (ConfigPorts, Arc<Mutex<Ecam>>) {
        let ecam = Arc::new(Mutex::new(Ecam::default()));
        (ConfigPorts::new(ecam.clone()), ecam)
    }

    #[test]
    fn an_address_selects_device_function_and_register() {
        let (mut ports, ecam) = ports();
        ports.write(0, &(ENABLE | 3 << 11 | 1 << 8 | 0x10).to_le_bytes());
        ports.write(6, &[1, 2]);
        assert_eq!(ecam.lock().expect("ecam").0, [(3 << 15 | 1 << 12 | 0x12, vec![1, 2])]);
        let mut out = [0; 4];
        ports.read(4, &mut out);
        assert_eq!(out, [0x10; 4]);
        ports.read(0, &mut out);
        assert_eq!(u32::from_le_bytes(out), ENABLE | 3 << 11 | 1 << 8 | 0x10);
    }

    #[test]
    fn a_disabled_address_another_bus_and_odd_accesses_lead_nowhere() {
        let (mut ports, ecam) = ports();
        for address in [0x10, ENABLE | 1 << 16] {
            ports.write(0, &address.to_le_bytes());
            ports.write(4, &[1; 4]);
            let mut out = [0; 4];
            ports.read(4, &mut out);
            assert_eq!(out, [0xff; 4]);
        }
        ports.write(0, &ENABLE.to_le_bytes());
        ports.write(3, &[1]);
        ports.write(7, &[1, 2]);
        ports.write(0, &[1; 8]);
        assert!(ecam.lock().expect("ecam").0.is_empty());
    }
}
