//! The host bridge: device 0, by which a kernel knows that the bus is one.

use super::config::{ConfigSpace, Identity};
use super::{Decoded, PciFunction};
use crate::bus::BusDevice;

/// A generic PCI Express host bridge, which no driver binds to.
const IDENTITY: Identity =
    Identity { id: (0x1b36, 0x0008), class: [0x06, 0x00, 0x00], revision: 0, subsystem: (0x1af4, 0x1100) };

/// The function: a header and nothing else.
pub struct HostBridge(ConfigSpace);

impl Default for HostBridge {
    fn default() -> Self {
        Self(ConfigSpace::new(IDENTITY))
    }
}

impl BusDevice for HostBridge {
    fn read(&mut self, _offset: u64, out: &mut [u8]) {
        out.fill(0xff);
    }

    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}

impl PciFunction for HostBridge {
    fn read_config_space(&mut self, offset: usize, out: &mut [u8]) {
        self.0.read(offset, out);
    }

    fn write_config_space(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn decoded(&self) -> Decoded {
        Decoded::default()
    }

    fn moved(&mut self, _mapped: Decoded) {}
}
