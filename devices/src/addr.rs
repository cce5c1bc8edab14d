//! Newtypes for the numbers that are easy to mix up: bus addresses, interrupt numbers, queue indices.

use std::fmt;

/// A span of bus addresses, `base..base + len`. Never empty and never wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddrRange {
    base: u64,
    len: u64,
}

impl AddrRange {
    /// The `len` addresses from `base` on; `None` when that is no address or runs past 2^64.
    pub const fn new(base: u64, len: u64) -> Option<Self> {
        if len == 0 || base.checked_add(len - 1).is_none() {
            return None;
        }
        Some(Self { base, len })
    }

    /// The first address.
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// How many addresses, at least 1.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: an empty range cannot be made.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The last address (inclusive, so that a range may end at 2^64 - 1).
    pub const fn last(&self) -> u64 {
        self.base + (self.len - 1)
    }

    /// Whether `len` bytes at `addr` lie wholly inside.
    pub fn contains(&self, addr: u64, len: u64) -> bool {
        Self::new(addr, len).is_some_and(|r| r.base >= self.base && r.last() <= self.last())
    }

    /// Whether the two ranges share an address.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.base <= other.last() && other.base <= self.last()
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.base, self.last())
    }
}

/// A global system interrupt: an input pin of the I/O APICs, or an entry of KVM's routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gsi(pub u32);

/// Which of a device's virtqueues, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueIndex(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_may_end_at_the_last_address_but_not_pass_it() {
        assert_eq!(AddrRange::new(u64::MAX, 1).map(|r| r.last()), Some(u64::MAX));
        assert_eq!(AddrRange::new(u64::MAX, 2), None);
        assert_eq!(AddrRange::new(5, 0), None);
    }

    #[test]
    fn overlap_is_symmetric_and_excludes_neighbours() {
        let (Some(a), Some(b), Some(c)) = (AddrRange::new(0, 8), AddrRange::new(8, 8), AddrRange::new(7, 2))
        else {
            unreachable!()
        };
        assert!(!a.overlaps(&b) && !b.overlaps(&a));
        assert!(a.overlaps(&c) && c.overlaps(&a) && b.overlaps(&c));
    }
}
