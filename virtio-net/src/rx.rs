//! Packets from the tap to the guest (VIRTIO 1.3, 5.1.6.3 and 5.1.6.4).
//!
//! 1. Chains are gathered until the largest packet there can be fits into them; short of that, nothing is read from the
//!    tap: what the guest has no room for stays in the host's queue, which is bounded.
//! 2. One `readv` puts a packet and its header straight into guest memory.
//! 3. Chains that it filled are given back, with their number in the header; the others wait for the next packet.

use std::collections::VecDeque;
use std::io;

use devices::rate::{Gate, Limiter};
use devices::virtio::chain::Chain;
use devices::virtio::queue::{Queue, QueueError};
use devices::virtio::{Features, Progress};
use vm_memory::{GuestMemoryMmap, VolatileSlice};

use crate::tap::Tap;
use crate::{header, sys};

/// Packets at once; after that the other queue has its turn.
const BATCH: usize = 64;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There may be more packets: look again when the tap has some.
    Waiting,
    /// The guest has no room: look again when it offers some.
    Starved,
    /// The limit allows no more: its timer tells when to look again.
    Limited,
    /// The tap is no more.
    Gone,
}

/// The receiving queue.
#[derive(Debug)]
pub(crate) struct Rx {
    queue: Queue,
    /// Chains taken for packets to come.
    held: VecDeque<Chain>,
    /// Room in them.
    room: usize,
    /// Whether a packet may lie in several chains.
    merge: bool,
    /// Room that a packet may need.
    largest: usize,
    size: usize,
    pub(crate) limiter: Limiter,
}

impl Rx {
    pub(crate) fn new(queue: Queue, size: u16, features: Features, limiter: Limiter) -> Self {
        let merge = features.has(header::MRG_RXBUF);
        // Without segments a packet is no longer than its link's; but links of 64 KiB there are, too.
        let largest = if merge || header::takes_large(features) { header::LARGEST } else { header::LEN + 1 };
        Self { queue, held: VecDeque::new(), room: 0, merge, largest, size: size.into(), limiter }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Where a driver finds the queue: chains that no packet came for were never taken.
    pub(crate) fn progress(&self) -> Progress {
        let Progress { next_avail, next_used } = self.queue.progress();
        let held = u16::try_from(self.held.len()).unwrap_or(0);
        Progress { next_avail: next_avail.wrapping_sub(held), next_used }
    }

    /// Moves packets until there are none, or no room, or the limit is reached, or it is the other queue's turn.
    pub(crate) fn turn(&mut self, tap: &Tap, ram: &GuestMemoryMmap) -> Result<Turn, QueueError> {
        self.queue.busy(ram)?;
        let turn = self.packets(tap, ram)?;
        self.queue.notify(ram)?;
        Ok(turn)
    }

    fn packets(&mut self, tap: &Tap, ram: &GuestMemoryMmap) -> Result<Turn, QueueError> {
        for _ in 0..BATCH {
            if !self.limiter.may() {
                return Ok(Turn::Limited);
            }
            if !self.gather(ram)? {
                return Ok(Turn::Starved);
            }
            match tap.read(&self.slices(ram)?) {
                Ok(0) => return Ok(Turn::Gone),
                Ok(len) => {
                    self.limiter.pay(len.saturating_sub(header::LEN));
                    self.give_back(len, ram)?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Turn::Gone),
            }
        }
        Ok(Turn::Waiting)
    }

    /// Takes chains until there is room for a packet; false when the driver has too few, and will kick with more.
    fn gather(&mut self, ram: &GuestMemoryMmap) -> Result<bool, QueueError> {
        let mut useless = 0;
        while !self.has_room() {
            match self.queue.next(ram)? {
                Some(chain) if chain.writable() < header::LEN => {
                    // Not even a header fits: given back as it came.
                    self.queue.complete(ram, chain)?;
                    useless += 1;
                    if useless >= self.size {
                        // A driver could go on with them for ever, and nothing else would have its turn.
                        self.queue.kick_again();
                        return Ok(false);
                    }
                }
                Some(chain) => {
                    self.room += chain.writable();
                    self.held.push_back(chain);
                }
                None if self.queue.park(ram)? => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn has_room(&self) -> bool {
        match self.merge {
            // A driver that has offered all it has cannot offer more: what is longer than that is cut.
            true => self.room >= self.largest || self.held.len() >= self.size,
            false => !self.held.is_empty(),
        }
    }

    fn slices<'a>(&self, ram: &'a GuestMemoryMmap) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
        let chains = if self.merge { self.held.len() } else { 1 };
        let mut slices = Vec::new();
        for chain in self.held.iter().take(chains) {
            let more = chain.writable_buffers().slices(ram, header::LARGEST)?;
            // A chain is used whole or not at all, so that what was read is where it is said to be.
            if !slices.is_empty() && slices.len() + more.len() > sys::PIECES {
                break;
            }
            slices.extend(more);
        }
        Ok(slices)
    }

    /// Gives back the chains that a packet of `len` bytes with its header lies in.
    fn give_back(&mut self, len: usize, ram: &GuestMemoryMmap) -> Result<(), QueueError> {
        let (mut used, mut left) = (Vec::new(), len);
        while left > 0 {
            let Some(chain) = self.held.pop_front() else { break };
            let part = chain.writable().min(header::LARGEST).min(left);
            self.room -= chain.writable();
            left -= part;
            used.push((chain, part));
        }
        // Always there, and 1 where chains are not merged (5.1.6.4).
        let count = u16::try_from(used.len()).unwrap_or(u16::MAX).to_le_bytes();
        for (i, (mut chain, part)) in used.into_iter().enumerate() {
            match i {
                0 => {
                    chain.wrote(header::NUM_BUFFERS);
                    let wrote = header::NUM_BUFFERS + chain.write(ram, &count)?;
                    chain.wrote(part.saturating_sub(wrote));
                }
                _ => chain.wrote(part),
            }
            self.queue.complete(ram, chain)?;
        }
        Ok(())
    }
}
