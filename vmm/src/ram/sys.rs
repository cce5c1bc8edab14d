//! The mapping itself, inside a reservation.
#![allow(unsafe_code)] // mmap at a chosen address and raw regions over it

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use devices::memory::Reservation;
use vm_memory::{FileOffset, MmapRegion};

/// Owns the host addresses of guest memory and unmaps them when dropped.
///
/// Hazard: the regions made by [`Mapping::part`] do not keep it alive. Whoever holds it drops it last, when no
/// vCPU runs, every device has stopped and KVM's slots are gone.
#[derive(Debug)]
pub(crate) struct Mapping {
    place: Reservation,
    prot: i32,
    flags: i32,
    file: Option<Arc<File>>,
}

/// Maps `size` bytes, privately or from a fresh memfd, from huge pages or with a request for them.
pub(super) fn map(size: usize, shared: bool, hugetlb: bool) -> io::Result<Mapping> {
    let file = if shared { Some(Arc::new(memfd(size, hugetlb)?)) } else { None };
    let place = Reservation::new(size)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let mut flags = libc::MAP_FIXED | libc::MAP_NORESERVE;
    flags |= if shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
    if hugetlb {
        flags &= !libc::MAP_NORESERVE; // better refused here than killed by SIGBUS later
        if !shared {
            flags |= libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        }
    }
    let fd = file.as_ref().map_or(-1, |f| f.as_raw_fd());
    // SAFETY: MAP_FIXED replaces our own reservation of exactly these addresses and nothing else.
    let got = unsafe { libc::mmap(place.base().cast(), size, prot, flags, fd, 0) };
    if got == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if !hugetlb {
        // SAFETY: advice about our own mapping. A host without huge pages refuses, which costs only speed.
        unsafe { libc::madvise(got, size, libc::MADV_HUGEPAGE) };
    }
    // SAFETY: likewise. Guest memory has no place in a core dump of the VMM.
    unsafe { libc::madvise(got, size, libc::MADV_DONTDUMP) };
    Ok(Mapping { place, prot, flags: flags & !libc::MAP_FIXED, file })
}

impl Mapping {
    /// Its addresses in this process.
    pub(crate) fn addresses(&self) -> std::ops::Range<u64> {
        self.place.addresses()
    }

    /// A view of `len` bytes from `offset` on; `None` past the end.
    pub(super) fn part(&self, offset: u64, len: u64) -> Option<MmapRegion> {
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        if offset.checked_add(len)? > self.place.len() {
            return None;
        }
        let mut builder = vm_memory::mmap::MmapRegionBuilder::new(len)
            .with_mmap_prot(self.prot)
            .with_mmap_flags(self.flags);
        if let Some(file) = &self.file {
            builder = builder.with_file_offset(FileOffset::from_arc(file.clone(), offset as u64));
        }
        // SAFETY: the range was just checked to lie inside the mapping, which outlives its views by contract.
        unsafe { builder.with_raw_mmap_pointer(self.place.base().add(offset)) }.build().ok()
    }
}

fn memfd(size: usize, hugetlb: bool) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if hugetlb {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    // SAFETY: the name is a C string; the call gives a new descriptor or an error.
    let fd = unsafe { libc::memfd_create(c"guest-ram".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size as u64)?;
    // Other processes get the descriptor, and one that made the file shorter would end this one by SIGBUS. Holes may be
    // punched all the same.
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a descriptor of our own; the argument is a number.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
