//! Which addresses and interrupts the next virtio device gets.

use devices::virtio::transport::pci::{BAR_SIZE, PORTS};

use crate::arch::layout;

/// Pins of an I/O APIC.
pub(crate) const PINS: u8 = 24;

/// What has been given out.
#[derive(Debug)]
pub(crate) struct Slots {
    functions: u32,
    registers: u32,
    /// What is left of the window for shared memory regions: its first address and the one behind its last.
    regions: (u64, u64),
}

impl Slots {
    /// Nothing has been given out, of a machine with `ram` bytes.
    pub(crate) fn new(ram: u64) -> Self {
        let (first, len) = layout::pci64(ram);
        Self { functions: 0, registers: 0, regions: (first, first + len) }
    }

    /// A place for a shared memory region of `len` bytes, a power of two, at a multiple of it; `None` when there is none.
    pub(crate) fn region(&mut self, len: u64) -> Option<u64> {
        let (first, end) = self.regions;
        let at = first.checked_next_multiple_of(len)?;
        let behind = at.checked_add(len).filter(|behind| *behind <= end)?;
        self.regions.0 = behind;
        Some(at)
    }

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
    fn regions_lie_in_the_64_bit_window_at_multiples_of_their_lengths() {
        let gib = 1 << 30;
        let mut slots = Slots::new(gib);
        assert_eq!(slots.region(2 << 20), Some(4 * gib));
        assert_eq!(slots.region(gib), Some(5 * gib));
        assert_eq!(slots.region(32 * gib), Some(32 * gib));
        assert_eq!(slots.region(8 * gib), None, "the window ends at 68 GiB");
        assert_eq!(slots.region(2 * gib), Some(64 * gib));
    }

    #[test]
    fn pieces_follow_each_other_and_end_with_their_region() {
        let mut slots = Slots::new(1 << 30);
        assert_eq!(slots.function(), Some((0xc000_0000, 0xc000)));
        assert_eq!(slots.function(), Some((0xc000_4000, 0xc004)));
        let all: Vec<_> = std::iter::from_fn(|| slots.mmio()).collect();
        assert_eq!(all.len(), usize::from(PINS) - 1, "a pin for each, COM1's aside");
        assert_eq!(all.first(), Some(&(0xfe00_0000, 5)));
        assert_eq!(next((0x1000, 0x1800), 0x1000, 1), None);
    }
}
