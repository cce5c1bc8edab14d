//! A device's shared memory region (VIRTIO 1.3, 2.10): addresses of the guest's where a device shows it pieces of files.
//!
//! 1. [`Region::new`] sets addresses of this process aside. Nothing is there yet: the guest reads zeros.
//! 2. The transport says where the guest looks for it, and has the hypervisor show it there from the driver's start to its
//!    reset ([`RegionSource`]).
//! 3. [`Region::map`] and [`Region::unmap`] change what is there, while the guest runs.
//!
//! It is no RAM of the guest's: no device takes buffers or rings from it, and this process never looks into it. A file
//! there may become shorter at any time, and who looks past its end gets SIGBUS. The guest's processor does not get on, or
//! gets an error of KVM's, with which the machine ends (docs/adr/0013); it ends, too, when the guest writes where nothing is.

mod sys;

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use crate::confine::Call;
use crate::memory::{PAGE, Reservation};

/// Where a piece may begin, and of what its length is a multiple: what Linux's virtio-fs driver asks for at once. It bounds
/// the number of pieces, and with it what the host's kernel keeps for them.
pub const GRAIN: u64 = 2 << 20;
/// The longest region: 16384 pieces, where a process has 65530 mappings on a host that was not told otherwise.
pub const LEN_MAX: u64 = 32 << 30;

/// What a thread that maps and unmaps asks of the kernel, beside memory.
pub const CALLS: [Call; 3] =
    [Call::Any(libc::SYS_fstat), Call::Any(libc::SYS_statx), Call::Any(libc::SYS_fstatfs)];

/// The region. What is mapped goes with it.
#[derive(Debug)]
pub struct Region {
    place: Reservation,
    /// Held while it changes.
    changing: Mutex<()>,
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl Region {
    /// A region of `len` bytes, a power of two from [`GRAIN`] to [`LEN_MAX`].
    ///
    /// # Errors
    /// Another length, or the process has no room.
    pub fn new(len: u64) -> io::Result<Self> {
        if !len.is_power_of_two() || !(GRAIN..=LEN_MAX).contains(&len) {
            return Err(invalid("a shared memory region has a power of two of bytes, from 2 MiB to 32 GiB"));
        }
        let size = usize::try_from(len).map_err(io::Error::other)?;
        let region = Self { place: Reservation::new(size)?, changing: Mutex::default() };
        region.clear()?;
        Ok(region)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.place.len() as u64
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where it is in this process.
    pub fn addresses(&self) -> std::ops::Range<u64> {
        self.place.addresses()
    }

    /// Shows `len` bytes of `file` from `from` on at offset `at`, in place of what was there. `from` is a multiple of
    /// 4096, the others of [`GRAIN`].
    ///
    /// # Errors
    /// Bounds that are none, no regular file, one that may not be accessed so. What was there stays.
    pub fn map(&self, at: u64, len: u64, (file, from): (&File, u64), writable: bool) -> io::Result<()> {
        let (at, len) = self.piece(at, len)?;
        let aligned = from.is_multiple_of(PAGE as u64);
        let end = from.checked_add(len as u64).and_then(|end| i64::try_from(end).ok());
        let (Ok(from), Some(_), true) = (i64::try_from(from), end, aligned) else {
            return Err(invalid("a piece of a file that no file has"));
        };
        is_sound(file)?;
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        sys::put(&self.place, at..at + len, (file, from), writable)
    }

    /// Takes away what is shown in the `len` bytes at offset `at`, multiples of [`GRAIN`].
    ///
    /// # Errors
    /// Bounds that are none, or the host has no memory.
    pub fn unmap(&self, at: u64, len: u64) -> io::Result<()> {
        let (at, len) = self.piece(at, len)?;
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        sys::clear(&self.place, at..at + len)
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn clear(&self) -> io::Result<()> {
        self.unmap(0, self.len())
    }

    fn piece(&self, at: u64, len: u64) -> io::Result<(usize, usize)> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len());
        let aligned = at.is_multiple_of(GRAIN) && len.is_multiple_of(GRAIN);
        match (usize::try_from(at), usize::try_from(len)) {
            (Ok(at), Ok(len)) if inside && aligned && len > 0 => Ok((at, len)),
            _ => Err(invalid(
                "a piece that does not lie in the shared memory region, or not at a multiple of 2 MiB",
            )),
        }
    }
}

/// Only regular files: a device's memory may be anything. And none of huge pages, of which the kernel maps more than it was
/// asked for, up to their end.
fn is_sound(file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(invalid("not a regular file"));
    }
    if fstatfs(file)?.filesystem_type() == HUGETLBFS_MAGIC {
        return Err(invalid("a file of huge pages"));
    }
    Ok(())
}

/// Shows a region until it is dropped.
pub trait Shown: Send {}

/// Where transports have regions shown; the hypervisor implements it.
pub trait RegionSource: Send + Sync {
    /// Shows `region` to the guest from the address `at` on, until the returned guard is dropped.
    ///
    /// # Errors
    /// There is memory of the guest's already, or the hypervisor cannot.
    fn show(&self, at: u64, region: &Arc<Region>) -> io::Result<Box<dyn Shown>>;
}

#[cfg(test)]
mod tests;
