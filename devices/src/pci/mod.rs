//! PCI Express as far as virtual functions need it: configuration space, capabilities, MSI-X, and the root complex.
//!
//! One bus, reached through ECAM or through the PC's ports. Functions have 4 KiB of configuration space and at most one
//! memory BAR; interrupts are MSI-X messages, there are no INTx lines.

pub mod bridge;
pub mod config;
pub mod msix;
pub mod ports;
pub mod root;
mod sys;

use crate::addr::AddrRange;
use crate::bus::BusDevice;

/// One function of a device, as the root sees it; its [`BusDevice`] side is what its BAR shows.
pub trait PciFunction: BusDevice {
    /// Reads configuration space; `offset + out.len()` is at most 4096.
    fn read_config_space(&mut self, offset: usize, out: &mut [u8]);

    /// Writes configuration space, bounds likewise.
    fn write_config_space(&mut self, offset: usize, data: &[u8]);

    /// Where the BAR is decoded; `None` while it is not.
    fn decoded(&self) -> Option<AddrRange>;

    /// The BAR is decoded elsewhere now, or no more.
    fn moved(&mut self);
}
