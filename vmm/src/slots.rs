//! Which addresses and interrupts the next virtio device gets.

use devices::virtio::transport::pci::BAR_SIZE;

use crate::arch::layout;

/// Pins of an I/O APIC.
pub(crate) const PINS: u8 = 24;

/// What has been given out.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    bars: u32,
    registers: u32,
}

impl Slots {
    /// The address of the next function's BAR in the 32-bit window; `None` when the window is full.
    pub(crate) fn bar(&mut self) -> Option<u32> {
        let at = next(layout::PCI32, BAR_SIZE.into(), self.bars)?;
        self.bars += 1;
        Some(at)
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
        assert_eq!(slots.bar(), Some(0xc000_0000));
        assert_eq!(slots.bar(), Some(0xc000_8000));
        let all: Vec<_> = std::iter::from_fn(|| slots.mmio()).collect();
        assert_eq!(all.len(), usize::from(PINS) - 1, "a pin for each, COM1's aside");
        assert_eq!(all.first(), Some(&(0xfe00_0000, 5)));
        assert_eq!(next((0x1000, 0x1800), 0x1000, 1), None);
    }
}
