//! Guest memory as devices see it.
#![allow(unsafe_code)] // pointers into guest memory, for the kernel

use std::io;
use std::ptr;

use vm_memory::{
    GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    VolatileSlice,
};

use crate::virtio::chain::Buffers;
use crate::virtio::queue::QueueError;

/// The guest's RAM: a cheap clone of a handle to a map that memory hotplug may replace.
pub type GuestRam = GuestMemoryAtomic<GuestMemoryMmap>;

/// The map as it is now, kept for as long as this is.
pub type Mapped = <GuestRam as GuestAddressSpace>::T;

/// The unit in which memory is given back.
pub const PAGE: usize = 4096;

/// Where a huge page begins: a reservation does, too, so that the host can back it by huge pages.
const HUGE: usize = 2 << 20;

/// Addresses of this process that are set aside, without access; they are free again when it is dropped, with whatever
/// was mapped there since.
///
/// Hazard: what points there does not keep it. Whoever holds it drops it last.
#[derive(Debug)]
pub struct Reservation {
    base: *mut u8,
    len: usize,
}

// SAFETY: the pointer is a range of addresses owned by this value; nothing is read or written through it here.
unsafe impl Send for Reservation {}
// SAFETY: likewise.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Sets `len` addresses aside, from a multiple of 2 MiB on.
    ///
    /// # Errors
    /// The process has no room for them.
    pub fn new(len: usize) -> io::Result<Self> {
        let padded = len.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh reservation without access, at an address the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), padded, libc::PROT_NONE, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let head = start.cast::<u8>().align_offset(HUGE);
        // SAFETY: both spans are the unused ends of the reservation made above; `head` is at most HUGE - 1.
        unsafe {
            let base = start.cast::<u8>().add(head);
            if head > 0 {
                libc::munmap(start, head);
            }
            libc::munmap(base.add(len).cast(), HUGE - head);
            Ok(Self { base, len })
        }
    }

    /// The first address.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// How many, at least 1.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: nothing cannot be set aside.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All of them.
    pub fn addresses(&self) -> std::ops::Range<u64> {
        let start = self.base.addr() as u64;
        start..start + self.len as u64
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the range is ours; by this type's contract nobody uses what is mapped there any more.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// Whether other processes may map the guest's memory: then it is a file's.
pub fn is_shared(ram: &GuestMemoryMmap) -> bool {
    ram.iter().any(|region| region.file_offset().is_some())
}

/// Gives the whole pages in `slice` back to the host; the guest finds zeros there when it next looks. `shared` is what
/// [`is_shared`] says.
///
/// # Errors
/// The host refused, as it does for a part of a huge page that was set aside.
pub fn give_back(slice: &VolatileSlice<'_>, shared: bool) -> io::Result<()> {
    let start = slice.ptr_guard_mut().as_ptr();
    let skip = start.align_offset(PAGE);
    let len = slice.len().saturating_sub(skip) / PAGE * PAGE;
    if len == 0 {
        return Ok(());
    }
    // A shared page has to go from its file, for everybody; a private one only from this process.
    let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    // SAFETY: whole pages inside `slice`, which is mapped guest memory: raw bytes that nobody has a reference to and
    // that may change, to zeros too, at any time.
    let done = unsafe { libc::madvise(start.wrapping_add(skip).cast(), len, advice) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

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
        let part = |slice: &VolatileSlice<'_>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        let left = slices.iter().map(VolatileSlice::len).sum();
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

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::{Bytes, FileOffset, GuestAddress};

    fn private() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 16 * PAGE)]).expect("memory")
    }

    fn shared() -> GuestMemoryMmap {
        let name =
            nix::sys::memfd::memfd_create(c"ram", nix::sys::memfd::MFdFlags::empty()).expect("a memfd");
        let file = std::fs::File::from(name);
        file.set_len(16 * PAGE as u64).expect("its size");
        let range = (GuestAddress(0), 16 * PAGE, Some(FileOffset::new(file, 0)));
        GuestMemoryMmap::from_ranges_with_files([range]).expect("memory")
    }

    #[test]
    fn whole_pages_are_given_back_and_read_as_zeros() {
        for ram in [private(), shared()] {
            ram.write_slice(&[0xaa; 16 * PAGE], GuestAddress(0)).expect("written");
            let part = ram.get_slice(GuestAddress(PAGE as u64 - 1), 3 * PAGE).expect("memory");
            give_back(&part, is_shared(&ram)).expect("given back");
            give_back(&part.subslice(0, 100).expect("a part"), is_shared(&ram)).expect("no whole page");
            let mut now = vec![0xff; 16 * PAGE];
            ram.read_slice(&mut now, GuestAddress(0)).expect("read");
            let zeros = now.iter().filter(|b| **b == 0).count();
            assert_eq!(zeros, 2 * PAGE);
            assert!(now[PAGE..3 * PAGE].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn shared_memory_gives_its_files_pages_back() {
        use std::os::unix::fs::MetadataExt;
        let ram = shared();
        ram.write_slice(&[0xaa; 16 * PAGE], GuestAddress(0)).expect("written");
        let blocks = || {
            let region = ram.iter().next().expect("a region");
            region.file_offset().expect("a file").file().metadata().expect("told").blocks()
        };
        let before = blocks();
        give_back(&ram.get_slice(GuestAddress(0), 8 * PAGE).expect("memory"), true).expect("given back");
        assert_eq!(blocks(), before / 2);
    }
}
