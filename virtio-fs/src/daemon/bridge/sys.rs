//! A second view of mapped memory.
#![allow(unsafe_code)] // a region over memory that is mapped already

use std::io;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory_of_fuse::mmap::MmapRegionBuilder;
use vm_memory_of_fuse::{GuestAddress, GuestMemoryMmap as Ram, GuestRegionMmap};

/// The same pages by the other library. Whoever has it keeps `mapped`, too.
pub(super) fn same(mapped: &GuestMemoryMmap) -> io::Result<Ram> {
    let regions: Option<Vec<_>> = mapped
        .iter()
        .map(|region| {
            let len = usize::try_from(region.len()).ok()?;
            let builder = MmapRegionBuilder::new(len)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_SHARED);
            // SAFETY: the region is mapped, that long, and stays so as long as `mapped` by this function's contract.
            let view = unsafe { builder.with_raw_mmap_pointer(region.as_ptr()) }.build().ok()?;
            GuestRegionMmap::new(view, GuestAddress(region.start_addr().0))
        })
        .collect();
    let regions = regions.ok_or_else(|| io::Error::other("guest memory cannot be looked at"))?;
    Ram::from_regions(regions).map_err(io::Error::other)
}
