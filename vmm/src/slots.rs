//! Which addresses and interrupts the next virtio device gets.

use devices::addr::AddrRange;
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

/// Places for shared memory regions of these lengths, powers of two, in the 64-bit window of a machine with `ram` bytes:
/// each at a multiple of its length; `None` when they do not fit. The longest come first, or shorter ones would be in their
/// way.
pub(crate) fn regions(ram: u64, lengths: &[u64]) -> Option<Vec<u64>> {
    let (first, window) = layout::pci64(ram);
    let mut order: Vec<_> = lengths.iter().copied().enumerate().collect();
    order.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
    let mut places = vec![0; lengths.len()];
    let mut taken: Vec<AddrRange> = Vec::new();
    for (n, len) in order {
        let step = usize::try_from(len).ok()?;
        let mut multiples = (first.checked_next_multiple_of(len)?..first + window).step_by(step);
        let place = multiples.find_map(|at| {
            let place = AddrRange::new(at, len).filter(|place| place.last() < first + window)?;
            (!taken.iter().any(|other| other.overlaps(&place))).then_some(place)
        })?;
        taken.push(place);
        *places.get_mut(n)? = place.base();
    }
    Some(places)
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
        // From 4 GiB to 68.
        let places = |lengths: &[u64]| regions(gib, lengths);
        assert_eq!(places(&[]), Some(vec![]));
        assert_eq!(places(&[2 << 20, gib, 2 << 20]), Some(vec![5 * gib, 4 * gib, 5 * gib + (2 << 20)]));
        assert_eq!(places(&[8 * gib, 32 * gib, 16 * gib]), Some(vec![8 * gib, 32 * gib, 16 * gib]));
        assert_eq!(places(&[32 * gib, 32 * gib]), None);
        assert_eq!(places(&[64 * gib]), None);
    }

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
