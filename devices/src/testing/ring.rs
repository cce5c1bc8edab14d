//! A split virtqueue as its driver sees it (VIRTIO 1.3, 2.7).

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::memory::GuestRam;
use crate::virtio::RingLayout;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Buffer {
    pub at: u64,
    pub len: u32,
    pub writable: bool,
}

/// A chain that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub head: u32,
    pub written: u32,
}

/// The driver's view of one queue.
pub struct Ring {
    ram: GuestRam,
    pub layout: RingLayout,
    next_descriptor: u16,
    avail: u16,
    seen: u16,
}

impl Ring {
    /// An empty ring of `size` at `base`.
    pub fn new(ram: &GuestRam, size: u16, base: u64) -> Self {
        let avail = base + 16 * u64::from(size);
        let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4);
        let layout = RingLayout { size, desc: base, avail, used };
        let mut ring = Self { ram: ram.clone(), layout, next_descriptor: 0, avail: 0, seen: 0 };
        ring.clear();
        ring
    }

    /// Forgets everything, as a driver does after a reset.
    pub fn clear(&mut self) {
        (self.next_descriptor, self.avail, self.seen) = (0, 0, 0);
        let len = self.layout.used + 6 + 8 * u64::from(self.layout.size) - self.layout.desc;
        self.put(self.layout.desc, &vec![0; usize::try_from(len).expect("small")]);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.memory().write_slice(bytes, GuestAddress(at)).expect("the ring is in memory");
    }

    fn u16_at(&self, at: u64) -> u16 {
        u16::from_le(self.ram.memory().read_obj(GuestAddress(at)).expect("the ring is in memory"))
    }

    /// Writes descriptor `index` raw.
    pub fn descriptor(&self, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        let mut raw = at.to_le_bytes().to_vec();
        raw.extend(len.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.put(self.layout.desc + 16 * u64::from(index), &raw);
    }

    /// Puts `head` in the available ring, and says that there are `ahead` entries more than before.
    pub fn offer(&mut self, head: u16, ahead: u16) {
        let slot = u64::from(self.avail % self.layout.size);
        self.put(self.layout.avail + 4 + 2 * slot, &head.to_le_bytes());
        self.avail = self.avail.wrapping_add(ahead);
        self.put(self.layout.avail + 2, &self.avail.to_le_bytes());
    }

    /// Makes a chain of `buffers` available; its head.
    pub fn add(&mut self, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (i, buffer) in buffers.iter().enumerate() {
            let index = self.next_descriptor;
            self.next_descriptor = (index + 1) % self.layout.size;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if buffer.writable { WRITE } else { 0 };
            self.descriptor(index, buffer.at, buffer.len, flags, self.next_descriptor);
        }
        self.offer(head, 1);
        head
    }

    /// The next chain that came back, if one did.
    pub fn used(&mut self) -> Option<Used> {
        if self.u16_at(self.layout.used + 2) == self.seen {
            return None;
        }
        let at = self.layout.used + 4 + 8 * u64::from(self.seen % self.layout.size);
        let raw: [u32; 2] = self.ram.memory().read_obj(GuestAddress(at)).expect("the ring is in memory");
        self.seen = self.seen.wrapping_add(1);
        Some(Used { head: u32::from_le(raw[0]), written: u32::from_le(raw[1]) })
    }

    /// Waits for a chain to come back.
    pub fn wait(&mut self) -> Used {
        let mut found = None;
        super::until("a chain comes back", || {
            found = self.used();
            found.is_some()
        });
        found.expect("until() said so")
    }
}
