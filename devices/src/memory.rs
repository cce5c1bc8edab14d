//! Guest memory as devices see it.
#![allow(unsafe_code)] // pointers into guest memory, for the kernel

use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use crate::virtio::chain::Buffers;
use crate::virtio::queue::QueueError;

/// The guest's RAM: a cheap clone of a handle to a map that memory hotplug may replace.
pub type GuestRam = GuestMemoryAtomic<GuestMemoryMmap>;

/// The map as it is now, kept for as long as this is.
pub type Mapped = <GuestRam as GuestAddressSpace>::T;

/// Buffers in guest memory as the kernel takes them, for a request that outlives the call that made it.
///
/// 1. [`Iovecs::of`] bounds them, once; the memory stays mapped as long as this value lives.
/// 2. The kernel reads or fills [`Iovecs::parts`]; [`Iovecs::advance`] passes over what it did.
#[derive(Debug)]
pub struct Iovecs {
    parts: Vec<libc::iovec>,
    /// Parts before this one are done.
    next: usize,
    left: usize,
    _mapped: Mapped,
}

// SAFETY: the pointers lead into guest memory, which `_mapped` keeps, and which belongs to no thread: whatever is read
// or written through them is raw bytes, by the kernel.
unsafe impl Send for Iovecs {}

impl Iovecs {
    /// The first `limit` bytes of `buffers`.
    ///
    /// # Errors
    /// Memory that was there when the chain was taken is gone.
    pub fn of(buffers: &Buffers, ram: &Mapped, limit: usize) -> Result<Self, QueueError> {
        let slices = buffers.slices(ram, limit)?;
        let part = |slice: &vm_memory::VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        let left = slices.iter().map(vm_memory::VolatileSlice::len).sum();
        Ok(Self { parts: slices.iter().map(part).collect(), next: 0, left, _mapped: ram.clone() })
    }

    /// What is left, for the kernel.
    pub fn parts(&self) -> &[libc::iovec] {
        self.parts.get(self.next..).unwrap_or_default()
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Passes over `n` bytes, or over all there are.
    pub fn advance(&mut self, n: usize) {
        let mut n = n.min(self.left);
        self.left -= n;
        while let Some(part) = self.parts.get_mut(self.next)
            && n > 0
        {
            let step = n.min(part.iov_len);
            part.iov_base = part.iov_base.cast::<u8>().wrapping_add(step).cast();
            part.iov_len -= step;
            n -= step;
            if part.iov_len == 0 {
                self.next += 1;
            }
        }
    }
}
