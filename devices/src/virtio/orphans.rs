//! Chains that another process took from a ring and will not give back, because it is gone.
//!
//! The ring itself tells how many there are: those made available less those used. Which ones is not written anywhere.
//! But a chain's head comes in the available ring again only after it was in the used ring, so of the ring's last
//! entries a head whose last word is in the available one is still out. Where requests overtake each other this leaves
//! some doubt, which whoever knows the requests can remove: see [`Queue::take_over`](super::queue::Queue::take_over).

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::queue::QueueError;
use super::{Progress, RingLayout};

/// What a ring without its device looks like.
pub(super) struct Orphans {
    /// Behind everything the driver has said so far.
    pub(super) progress: Progress,
    /// Chains that are out.
    pub(super) count: u16,
    /// Heads that may be theirs, the likeliest first.
    pub(super) heads: Vec<u16>,
}

fn read_u16(ram: &GuestMemoryMmap, base: u64, offset: u64) -> Result<u16, QueueError> {
    let at = base.checked_add(offset).ok_or(QueueError::Ring)?;
    ram.read_obj(GuestAddress(at)).map(u16::from_le).map_err(|_| QueueError::Ring)
}

/// Reads the ring.
pub(super) fn find(ram: &GuestMemoryMmap, ring: &RingLayout) -> Result<Orphans, QueueError> {
    let (next_avail, next_used) = (read_u16(ram, ring.avail, 2)?, read_u16(ram, ring.used, 2)?);
    let count = next_avail.wrapping_sub(next_used);
    if count > ring.size {
        return Err(QueueError::AvailIndex);
    }
    let avail = ages(ring.size, next_avail, |slot| read_u16(ram, ring.avail, 4 + 2 * slot))?;
    // A used entry is a head of 32 bits, of which the guest sees to 16, and a length.
    let used = ages(ring.size, next_used, |slot| read_u16(ram, ring.used, 4 + 8 * slot))?;
    let mut heads: Vec<(i64, u16)> = (0..ring.size)
        .zip(avail.iter().zip(&used))
        .filter_map(|(head, (avail, used))| Some((lead(count, (*avail)?, *used), head)))
        .filter(|(lead, _)| *lead > 0)
        .collect();
    heads.sort_by_key(|(lead, _)| -lead);
    let heads = heads.into_iter().map(|(_, head)| head).collect();
    Ok(Orphans { progress: Progress { next_avail, next_used }, count, heads })
}

/// For each head how many entries ago the ring had it last, if it did.
fn ages(
    size: u16,
    next: u16,
    entry: impl Fn(u64) -> Result<u16, QueueError>,
) -> Result<Vec<Option<u16>>, QueueError> {
    let mut ages = vec![None; size.into()];
    for age in 1..=size {
        let head = entry(u64::from(next.wrapping_sub(age) % size))?;
        if let Some(found @ None) = ages.get_mut(usize::from(head)) {
            *found = Some(age);
        }
    }
    Ok(ages)
}

/// By how many entries a head was made available after it was used last. The used ring's nth entry is written after
/// the available ring's nth, so that a head without a lead has surely been used since.
fn lead(count: u16, avail: u16, used: Option<u16>) -> i64 {
    used.map_or(i64::MAX, |used| i64::from(count) + i64::from(used) - i64::from(avail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::QueueIndex;
    use crate::interrupt::Interrupt;
    use crate::testing::{Buffer, Ring};
    use crate::virtio::chain::Chain;
    use crate::virtio::queue::Queue;
    use crate::virtio::{Features, QueueGrant};
    use vm_memory::GuestAddressSpace;
    use vmm_sys_util::eventfd::EventFd;

    const USED_AT: u64 = 4;

    fn ring(size: u16) -> (crate::memory::GuestRam, Ring) {
        let ram = crate::testing::ram();
        let ring = Ring::new(&ram, size, 0x1000_0000);
        (ram, ring)
    }

    fn give_back(ram: &crate::memory::GuestRam, ring: &Ring, n: u16, head: u16) {
        let at = ring.layout.used + USED_AT + 8 * u64::from(n % ring.layout.size);
        ram.memory().write_obj(u32::from(head).to_le(), GuestAddress(at)).expect("in memory");
        ram.memory().write_obj((n + 1).to_le(), GuestAddress(ring.layout.used + 2)).expect("in memory");
    }

    fn take(ring: &mut Ring) -> u16 {
        ring.add(&[Buffer { at: 0x1000, len: 16, writable: true }])
    }

    #[test]
    fn what_was_not_given_back_is_found_whatever_overtook_it() {
        let (ram, mut ring) = ring(8);
        let old = take(&mut ring);
        for n in 0..5 {
            let head = take(&mut ring);
            give_back(&ram, &ring, n, head);
        }
        let last = take(&mut ring);
        let found = find(&ram.memory(), &ring.layout).expect("a ring");
        assert_eq!((found.count, found.progress), (2, Progress { next_avail: 7, next_used: 5 }));
        let mut heads = found.heads.get(..2).expect("two").to_vec();
        heads.sort_unstable();
        assert_eq!(heads, [old, last]);
    }

    #[test]
    fn a_head_that_is_used_again_and_again_is_out_only_once() {
        let (ram, mut ring) = ring(4);
        for n in 0..100 {
            ring.descriptor(3, 0x1000, 16, 2, 0);
            ring.offer(3, 1);
            let found = find(&ram.memory(), &ring.layout).expect("a ring");
            assert_eq!((found.count, found.heads.first()), (1, Some(&3)), "round {n}");
            give_back(&ram, &ring, n, 3);
            assert_eq!(find(&ram.memory(), &ring.layout).expect("a ring").count, 0);
        }
    }

    /// The heads that are taken over, where `is_open` knows them by their number.
    fn taken_over(ram: &crate::memory::GuestRam, ring: &Ring, is_open: impl Fn(u16) -> bool) -> Vec<u16> {
        let grant = QueueGrant {
            index: QueueIndex(0),
            ring: ring.layout,
            kick: EventFd::new(0).expect("an eventfd"),
            call: Interrupt::none(),
            from: Progress::default(),
        };
        let taken = Queue::take_over(grant, &ram.memory(), Features(0), |chain| is_open(chain.head()));
        taken.expect("a ring").1.iter().map(Chain::head).collect()
    }

    #[test]
    fn a_chain_that_may_have_been_given_back_is_not_given_back_twice() {
        let (ram, mut ring) = ring(8);
        (0..3).for_each(|head| ring.descriptor(head, 0x1000, 16, 2, 0));
        ring.offer(0, 1);
        assert_eq!(taken_over(&ram, &ring, |_| false), [0], "there is no other");
        give_back(&ram, &ring, 0, 0);
        (0..3).for_each(|head| ring.offer(head, 1));
        give_back(&ram, &ring, 1, 2);
        give_back(&ram, &ring, 2, 1);
        // Head 0 is out, and 2, which overtook it, looks as if it were.
        let found = find(&ram.memory(), &ring.layout).expect("a ring");
        assert_eq!((found.count, found.heads), (1, vec![2, 0]));
        assert_eq!(taken_over(&ram, &ring, |head| head == 0), [0]);
        assert!(taken_over(&ram, &ring, |_| false).is_empty(), "which one it is nobody knows");
        assert_eq!(taken_over(&ram, &ring, |_| true), [2], "no more than are missing");
    }

    #[test]
    fn a_ring_that_makes_no_sense_is_refused() {
        let (ram, mut ring) = ring(4);
        ring.offer(0, 5);
        assert_eq!(find(&ram.memory(), &ring.layout).err(), Some(QueueError::AvailIndex));
    }
}
