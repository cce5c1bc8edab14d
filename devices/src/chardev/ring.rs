//! A bounded queue of bytes that forgets the oldest and counts what it forgot.

use std::collections::VecDeque;

pub(super) struct Ring {
    bytes: VecDeque<u8>,
    room: usize,
    total: u64,
    dropped: u64,
}

impl Ring {
    pub(super) fn new(room: usize) -> Self {
        Self { bytes: VecDeque::new(), room, total: 0, dropped: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let kept = bytes.get(bytes.len().saturating_sub(self.room)..).unwrap_or_default();
        let over = (self.bytes.len() + kept.len()).saturating_sub(self.room);
        self.dropped += (over + bytes.len() - kept.len()) as u64;
        self.bytes.drain(..over);
        self.bytes.extend(kept);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Up to `max` of the oldest bytes, still kept.
    pub(super) fn peek(&self, max: usize) -> Vec<u8> {
        self.bytes.iter().take(max).copied().collect()
    }

    /// Takes the `n` oldest bytes off.
    pub(super) fn consume(&mut self, n: usize) {
        self.bytes.drain(..n.min(self.bytes.len()));
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.peek(self.room)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_ring_keeps_the_newest_bytes_and_counts_the_others(
            pushes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)
        ) {
            let mut ring = Ring::new(32);
            pushes.iter().for_each(|p| ring.push(p));
            let all: Vec<u8> = pushes.concat();
            let kept = &all[all.len().saturating_sub(32)..];
            prop_assert_eq!(ring.to_vec(), kept);
            prop_assert_eq!(ring.dropped(), (all.len() - kept.len()) as u64);
            prop_assert_eq!(ring.total(), all.len() as u64);
        }
    }
}
