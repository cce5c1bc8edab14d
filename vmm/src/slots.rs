//! Which addresses and interrupts the next virtio device gets.

use devices::virtio::transport::pci::{BAR_SIZE, PORTS};

use crate::arch::layout;

/// Pins of an I/O APIC.
pub(crate) const PINS: u8 = 24;

/// What has been given out.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    functions: u32,
    registers: u32,
}

impl Slots {
    /// The next function's BARs in the 32-bit window and in that of ports; `None` when one is full.
    pub(crate) fn function(&mut self) -> Option<(u32, u16)> {
        let memory = next(layout::PCI32, BAR_SIZE.into(), self.functions)?;
        let (first, count) = layout::PCI_PORTS;
        let ports = next((first.into(), count.into()), PORTS.into(), self.functions)?;
        self.functions += 1;
        Some((memory, u16::try_from(ports).ok()?))
    }

    /// The address of the next page of registers and its interrupt; `None` when either is used up.
    pub(crate) fn mmio(&mut self) -> Option<(u32, u32)> {
        let at = next(layout::VIRTIO_MMIO, layout::VIRTIO_MMIO_STRIDE, self.registers)?;
        let gsi = layout::FIRST_FREE_GSI + self.registers;
        self.registers += 1;
        (gsi < layout::GSI_BASE + u32::from(PINS)).then_some((at, gsi))
    }
}

/// The `n`th piece of `size` bytes of a region.
fn next((base, len): (u64, u64), size: u64, n: u32) -> Option<u32> {
    let offset = size.checked_mul(n.into())?;
    let end = offset.checked_add(size)?;
    (end <= len).then(|| u32::try_from(base + offset).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_each_other_and_end_with_their_region() {
        let mut slots = Slots::default();
        assert_eq!(slots.function(), Some((0xc000_0000, 0xc000)));
        assert_eq!(slots.function(), Some((0xc000_4000, 0xc004)));
        let all: Vec<_> = std::iter::from_fn(|| slots.mmio()).collect();
        assert_eq!(all.len(), usize::from(PINS) - 1, "a pin for each, COM1's aside");
        assert_eq!(all.first(), Some(&(0xfe00_0000, 5)));
        assert_eq!(next((0x1000, 0x1800), 0x1000, 1), None);
    }
}
