//! PCI Express as far as virtual functions need it: configuration space, capabilities, MSI-X, and the root complex.
//!
//! One bus, reached through ECAM or through the PC's ports. Functions have 4 KiB of configuration space, a BAR of memory, one
//! of ports and one for what they share, where they want them; interrupts are MSI-X messages, there are no INTx lines.

pub mod bridge;
pub mod config;
pub mod msix;
pub mod ports;
pub mod root;
mod sys;

use crate::addr::AddrRange;
use crate::bus::BusDevice;

/// Where a function's BARs are decoded, those that are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// BAR 0, of memory.
    pub memory: Option<AddrRange>,
    /// BAR 1, of ports.
    pub ports: Option<AddrRange>,
    /// BAR 2, of 64-bit memory that the hypervisor shows by itself: it is on no bus.
    pub region: Option<AddrRange>,
}

/// One function of a device, as the root sees it; its [`BusDevice`] side is what its BAR of memory shows.
pub trait PciFunction: BusDevice {
    /// Reads configuration space; `offset + out.len()` is at most 4096.
    fn read_config_space(&mut self, offset: usize, out: &mut [u8]);

    /// Writes configuration space, bounds likewise.
    fn write_config_space(&mut self, offset: usize, data: &[u8]);

    /// The guest wrote to the BAR of ports. They read as zeros.
    fn write_ports(&mut self, _offset: u64, _data: &[u8]) {}

    /// Where the BARs are decoded.
    fn decoded(&self) -> Decoded;

    /// The BARs are on their buses as `mapped` says now: where they are decoded, unless another function is there.
    fn moved(&mut self, mapped: Decoded);
}
