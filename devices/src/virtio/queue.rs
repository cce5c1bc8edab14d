//! The device's side of one split virtqueue (VIRTIO 1.3, 2.7), over `virtio-queue`.
//!
//! 1. [`Queue::open`] checks that the ring lies in guest RAM; from then on its place cannot change.
//! 2. [`Queue::next`] takes a chain; [`Queue::complete`] gives it back; [`Queue::notify`] tells the driver, if it
//!    wants to be told.
//! 3. [`Queue::park`] asks for a kick when there is more, and says whether there is more already.
//!
//! A driver that breaks the ring's rules gets a [`QueueError`]; the device then reports DEVICE_NEEDS_RESET and
//! touches the ring no more.

use std::fmt;
use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, read_obj};
use super::{Features, Progress, QueueGrant, orphans, spec};
use crate::addr::QueueIndex;
use crate::interrupt::Interrupt;
use crate::rate::{Gate, Limiter};

/// What a driver did wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The ring itself does not lie in guest RAM, or is misaligned.
    #[error("its rings do not lie in guest memory")]
    Ring,
    /// The available index is further ahead than the queue is long.
    #[error("its available index has run away")]
    AvailIndex,
    /// A head past the end of the descriptor table.
    #[error("a chain begins outside of the descriptor table")]
    Head,
    /// A head that is in flight already.
    #[error("a chain was made available twice")]
    Duplicate,
    /// A chain without an end: it loops, leaves its table, or is longer than a queue may be.
    #[error("a chain of descriptors has no end")]
    Endless,
    /// An indirect table that is none.
    #[error("an indirect descriptor table is malformed")]
    Indirect,
    /// A readable buffer behind a writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// A buffer outside of guest RAM.
    #[error("a buffer does not lie in guest memory")]
    OutsideMemory,
    /// Buffers of more than 4 GiB together (2.7.5.2).
    #[error("a chain is longer than 4 GiB")]
    TooLong,
}

/// One live queue. Owned by the thread that works it.
pub struct Queue {
    ring: virtio_queue::Queue,
    index: QueueIndex,
    kick: EventFd,
    call: Interrupt,
    /// A bit for each descriptor that heads a chain the device holds.
    in_flight: Vec<u64>,
    indirect: bool,
    takes_astray: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("index", &self.index).field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens a granted queue.
    ///
    /// # Errors
    /// [`QueueError::Ring`].
    pub fn open(grant: QueueGrant, ram: &GuestMemoryMmap, features: Features) -> Result<Self, QueueError> {
        let layout = grant.ring;
        let mut ring = virtio_queue::Queue::new(layout.size).map_err(|_| QueueError::Ring)?;
        let place = |r: Result<(), virtio_queue::Error>| r.map_err(|_| QueueError::Ring);
        place(ring.try_set_desc_table_address(GuestAddress(layout.desc)))?;
        place(ring.try_set_avail_ring_address(GuestAddress(layout.avail)))?;
        place(ring.try_set_used_ring_address(GuestAddress(layout.used)))?;
        ring.set_event_idx(features.has(spec::feature::RING_EVENT_IDX));
        ring.set_next_avail(grant.from.next_avail);
        ring.set_next_used(grant.from.next_used);
        ring.set_ready(true);
        if !layout.lies_in(ram) {
            return Err(QueueError::Ring);
        }
        Ok(Self {
            in_flight: vec![0; usize::from(layout.size).div_ceil(64)],
            ring,
            index: grant.index,
            kick: grant.kick,
            call: grant.call,
            indirect: features.has(spec::feature::RING_INDIRECT_DESC),
            takes_astray: false,
        })
    }

    /// Takes chains with buffers outside of guest memory, too ([`Chain::is_astray`]): for a device that can answer one with an
    /// error. The driver may not know better: a process of the guest's can have it read a disk into a device's shared
    /// memory, which is no memory of ours.
    pub fn taking_astray(mut self) -> Self {
        self.takes_astray = true;
        self
    }

    /// Opens a granted queue that another process has worked until now, and takes over the chains it has not given
    /// back; [`Queue::notify_for_certain`] once they are completed. Where requests overtook each other the ring leaves a
    /// doubt which ones they are, so `is_open` is asked whether a chain, by its content, was not served yet; the chain it
    /// is given is not completed. Chains of which it says no, served and perhaps not given back, are taken over only if
    /// there are no more of them than are missing: the driver must never get one twice.
    ///
    /// # Errors
    /// [`QueueError::Ring`], or what the driver did wrong with the indices.
    pub fn take_over(
        mut grant: QueueGrant,
        ram: &GuestMemoryMmap,
        features: Features,
        mut is_open: impl FnMut(&mut Chain) -> bool,
    ) -> Result<(Self, Vec<Chain>), QueueError> {
        if !grant.ring.lies_in(ram) {
            return Err(QueueError::Ring);
        }
        let found = orphans::find(ram, &grant.ring)?;
        grant.from = found.progress;
        let mut queue = Self::open(grant, ram, features)?;
        let (mut heads, mut doubtful) = (Vec::new(), Vec::new());
        for head in found.heads {
            // A head that is none any more may lead anywhere.
            if let Ok(mut chain) = queue.walk(ram, head) {
                if is_open(&mut chain) { &mut heads } else { &mut doubtful }.push(head);
            }
        }
        heads.truncate(found.count.into());
        if heads.len() + doubtful.len() <= usize::from(found.count) {
            heads.extend(doubtful);
        }
        let mut chains = Vec::new();
        for head in heads {
            if let Ok(chain) = queue.walk(ram, head) {
                queue.take(head)?;
                chains.push(chain);
            }
        }
        Ok((queue, chains))
    }

    /// Which of the device's queues this is.
    pub fn index(&self) -> QueueIndex {
        self.index
    }

    /// Signalled when the driver has made chains available. Each signal tells (`Events::add_each`); nobody reads it, which
    /// would be a system call for each.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// How far the queue has been worked.
    pub fn progress(&self) -> Progress {
        Progress { next_avail: self.ring.next_avail(), next_used: self.ring.next_used() }
    }

    /// Takes the next chain; `None` when there is none.
    ///
    /// # Errors
    /// What the driver did wrong; the queue cannot be used any more.
    pub fn next(&mut self, ram: &GuestMemoryMmap) -> Result<Option<Chain>, QueueError> {
        let mut chains = self.ring.iter(ram).map_err(|why| match why {
            virtio_queue::Error::InvalidAvailRingIndex => QueueError::AvailIndex,
            _ => QueueError::Ring,
        })?;
        let Some(chain) = chains.next() else { return Ok(None) };
        let head = chain.head_index();
        self.take(head)?;
        let chain = self.walk(ram, head)?;
        if chain.is_astray() && !self.takes_astray {
            return Err(QueueError::OutsideMemory);
        }
        Ok(Some(chain))
    }

    /// Notes that the chain at `head` is the device's now.
    fn take(&mut self, head: u16) -> Result<(), QueueError> {
        if head >= self.ring.size() {
            return Err(QueueError::Head);
        }
        let (word, bit) = (usize::from(head / 64), 1 << (head % 64));
        let word = self.in_flight.get_mut(word).ok_or(QueueError::Head)?;
        if *word & bit != 0 {
            return Err(QueueError::Duplicate);
        }
        *word |= bit;
        Ok(())
    }

    fn walk(&self, ram: &GuestMemoryMmap, head: u16) -> Result<Chain, QueueError> {
        let mut chain = Chain::new(head);
        let mut table = Table::new(ram, self.ring.desc_table(), self.ring.size());
        let (mut index, mut total, mut left) = (head, 0u32, table.len);
        let mut may_be_indirect = self.indirect;
        loop {
            left = left.checked_sub(1).ok_or(QueueError::Endless)?;
            let descriptor = table.get(index)?;
            if descriptor.refers_to_indirect_table() {
                // 2.7.5.3.1: not within an indirect table, and not with a next one.
                if !may_be_indirect || descriptor.has_next() {
                    return Err(QueueError::Indirect);
                }
                may_be_indirect = false;
                table = Table::indirect(ram, &descriptor, self.ring.size())?;
                chain.expect(table.len.into());
                (index, left) = (0, table.len);
                continue;
            }
            total = total.checked_add(descriptor.len()).ok_or(QueueError::TooLong)?;
            chain.push(ram, (descriptor.addr(), descriptor.len()), descriptor.is_write_only())?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
    }

    /// Gives a chain back to the driver, with the bytes written to it.
    ///
    /// # Errors
    /// [`QueueError::Ring`]: the used ring's memory has gone.
    pub fn complete(&mut self, ram: &GuestMemoryMmap, chain: Chain) -> Result<(), QueueError> {
        let head = chain.head();
        if let Some(word) = self.in_flight.get_mut(usize::from(head / 64)) {
            *word &= !(1 << (head % 64));
        }
        // A chain has fewer than 2^32 bytes, see `walk`.
        let written = u32::try_from(chain.written()).unwrap_or(u32::MAX);
        self.ring.add_used(ram, head, written).map_err(|_| QueueError::Ring)
    }

    /// Raises the queue's interrupt if the driver wants one for what was completed since the last call.
    ///
    /// # Errors
    /// [`QueueError::Ring`].
    pub fn notify(&mut self, ram: &GuestMemoryMmap) -> Result<(), QueueError> {
        let wanted = self.ring.needs_notification(ram).map_err(|_| QueueError::Ring)?;
        if wanted && !self.is_muted(ram)? {
            self.call.raise();
        }
        Ok(())
    }

    /// Raises the queue's interrupt, wanted or not: whoever had the queue before may have given chains back and not come
    /// to say so.
    pub fn notify_for_certain(&self) {
        self.call.raise();
    }

    /// Without EVENT_IDX a flag of the driver's mutes interrupts (2.7.7.1); `needs_notification` has put the fence.
    fn is_muted(&self, ram: &GuestMemoryMmap) -> Result<bool, QueueError> {
        if self.ring.event_idx_enabled() {
            return Ok(false);
        }
        let flags: u16 = ram
            .load(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed)
            .map_err(|_| QueueError::Ring)?;
        Ok(u16::from_le(flags) & spec::AVAIL_NO_INTERRUPT != 0)
    }

    /// Asks the driver not to kick while the device is at work.
    ///
    /// # Errors
    /// [`QueueError::Ring`].
    pub fn busy(&mut self, ram: &GuestMemoryMmap) -> Result<(), QueueError> {
        self.ring.disable_notification(ram).map_err(|_| QueueError::Ring)
    }

    /// Asks the driver for a kick with the next chain. True: there is one already, and no kick may come for it.
    ///
    /// # Errors
    /// [`QueueError::Ring`].
    pub fn park(&mut self, ram: &GuestMemoryMmap) -> Result<bool, QueueError> {
        self.ring.enable_notification(ram).map_err(|_| QueueError::Ring)
    }

    /// Serves the chains there are, at most as many as the queue is long; after that the queue kicks itself, so
    /// that a thread with more to look after than this queue comes round to it. `serve` gives a chain back for
    /// completion, or keeps it and returns `None`.
    ///
    /// # Errors
    /// What the driver did wrong.
    pub fn serve(
        &mut self,
        ram: &GuestMemoryMmap,
        serve: impl FnMut(Chain) -> Result<Option<Chain>, QueueError>,
    ) -> Result<(), QueueError> {
        self.serve_within(ram, &mut Limiter::none(), |_| 0, serve)
    }

    /// Serves as [`Queue::serve`] does, but no more than `gate` allows, which tells when to come back; `bytes` is what a
    /// chain costs.
    ///
    /// # Errors
    /// What the driver did wrong.
    pub fn serve_within(
        &mut self,
        ram: &GuestMemoryMmap,
        gate: &mut impl Gate,
        bytes: impl Fn(&Chain) -> usize,
        mut serve: impl FnMut(Chain) -> Result<Option<Chain>, QueueError>,
    ) -> Result<(), QueueError> {
        self.busy(ram)?;
        for _ in 0..self.ring.size() {
            if !gate.may() {
                // No kick is asked for: it would change nothing.
                return self.notify(ram);
            }
            let chain = self.next(ram)?;
            chain.iter().for_each(|chain| gate.pay(bytes(chain)));
            match chain.map(&mut serve).transpose()? {
                Some(Some(chain)) => self.complete(ram, chain)?,
                Some(None) => {}
                None if self.park(ram)? => {}
                None => return self.notify(ram),
            }
        }
        self.kick_again();
        self.notify(ram)
    }

    /// Has the queue looked at again.
    pub fn kick_again(&self) {
        // EAGAIN: it will be.
        let _ = self.kick.write(1);
    }
}

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;
/// Longest indirect table; what a longer queue allows is allowed too (2.7.5.3.1).
const INDIRECT_MAX: u16 = 1024;

/// A table of descriptors, the queue's own or an indirect one.
struct Table<'a> {
    at: u64,
    len: u16,
    ram: &'a GuestMemoryMmap,
    /// All of it, where it lies in one region, as it does but for what a guest does on purpose: found once instead of for
    /// each descriptor.
    whole: Option<VolatileSlice<'a>>,
}

impl<'a> Table<'a> {
    fn new(ram: &'a GuestMemoryMmap, at: u64, len: u16) -> Self {
        let bytes = usize::from(len) * DESCRIPTOR as usize;
        Self { at, len, ram, whole: ram.get_slice(GuestAddress(at), bytes).ok() }
    }

    fn indirect(ram: &'a GuestMemoryMmap, descriptor: &Descriptor, queue: u16) -> Result<Self, QueueError> {
        let (len, rest) = (descriptor.len() / DESCRIPTOR, descriptor.len() % DESCRIPTOR);
        match u16::try_from(len) {
            Ok(len) if rest == 0 && len > 0 && len <= queue.max(INDIRECT_MAX) => {
                Ok(Self::new(ram, descriptor.addr().0, len))
            }
            _ => Err(QueueError::Indirect),
        }
    }

    fn get(&self, index: u16) -> Result<Descriptor, QueueError> {
        if index >= self.len {
            return Err(QueueError::Endless);
        }
        let offset = usize::from(index) * DESCRIPTOR as usize;
        if let Some(whole) = &self.whole {
            return whole.read_obj(offset).map_err(|_| QueueError::OutsideMemory);
        }
        let at = self.at.checked_add(offset as u64).ok_or(QueueError::OutsideMemory)?;
        read_obj(self.ram, GuestAddress(at))
    }
}
