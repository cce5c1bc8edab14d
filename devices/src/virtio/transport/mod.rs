//! How a guest's driver finds a device and talks to its registers: one core, two faces.
//!
//! [`core`] has everything that both transports share: the status machine, feature negotiation, queue registers and
//! the start and stop of the device. [`mmio`] and [`pci`] are register maps over it. No transport knows what device
//! it has.

pub mod core;
pub mod mmio;
pub mod pci;

/// The machine's side of a transport: what it needs beside the device itself.
#[derive(Clone)]
pub struct Host {
    /// Guest memory.
    pub ram: crate::memory::GuestRam,
    /// Where doorbells are registered.
    pub doorbells: std::sync::Arc<dyn crate::doorbell::DoorbellSource>,
    /// Where shared memory regions are shown.
    pub regions: std::sync::Arc<dyn crate::shared_memory::RegionSource>,
}

/// Reads `value` as a register of its own width; any other width reads zeros.
fn answer<const N: usize>(out: &mut [u8], value: [u8; N]) {
    // The caller has zeroed it.
    if let Ok(out) = <&mut [u8; N]>::try_from(out) {
        *out = value;
    }
}

/// What was written, if it has the register's width.
fn written<const N: usize>(data: &[u8]) -> Option<[u8; N]> {
    data.try_into().ok()
}

#[cfg(test)]
mod tests;
