//! Mappings at chosen addresses.
//!
//! Hazard: a call that maps at a fixed address unmaps what was there first, and may then fail. It leaves a hole, into
//! which the next allocation of any thread may fall, and the guest would see that. So everything that can be refused is
//! refused elsewhere first, what was left is looked at, and a hole that cannot be filled again ends the process.
#![allow(unsafe_code)] // mmap and mremap

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use crate::memory::Reservation;

/// Nothing, which reads as zeros and costs nothing. Not writable: it would be memory that nobody asked for.
const NOTHING: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

fn address(place: &Reservation, part: &Range<usize>) -> *mut libc::c_void {
    place.base().wrapping_add(part.start).cast()
}

fn map(
    at: *mut libc::c_void,
    len: usize,
    prot: i32,
    flags: i32,
    (fd, from): (RawFd, i64),
) -> io::Result<*mut libc::c_void> {
    // SAFETY: either at an address that the kernel chooses, or inside a reservation of ours into which nobody has a reference.
    let got = unsafe { libc::mmap(at, len, prot, flags, fd, from) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(got) }
}

/// Puts a piece of `file` at `part`, which lies in `place`.
pub(super) fn put(
    place: &Reservation,
    part: Range<usize>,
    (file, from): (&File, i64),
    writable: bool,
) -> io::Result<()> {
    let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let new = map(ptr::null_mut(), part.len(), prot, libc::MAP_SHARED, (file.as_raw_fd(), from))?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the mapping was made above and nobody knows of it; it replaces addresses of our own reservation, into which
    // nobody has a reference.
    let got = unsafe { libc::mremap(new, part.len(), part.len(), flags, address(place, &part)) };
    if got != libc::MAP_FAILED {
        return Ok(());
    }
    let why = io::Error::last_os_error();
    // SAFETY: the mapping made above, which was not moved.
    unsafe { libc::munmap(new, part.len()) };
    keep(place, &part);
    Err(why)
}

/// Has nothing at `part`, which lies in `place`.
pub(super) fn clear(place: &Reservation, part: Range<usize>) -> io::Result<()> {
    let done = map(address(place, &part), part.len(), libc::PROT_READ, NOTHING | libc::MAP_FIXED, (-1, 0));
    done.map(drop).inspect_err(|_| keep(place, &part))
}

/// After a failure: sees to it that `part` is still ours.
#[allow(clippy::panic)] // there is no safe way on, and nobody above could find one
fn keep(place: &Reservation, part: &Range<usize>) {
    let flags = NOTHING | libc::MAP_FIXED_NOREPLACE;
    if map(address(place, part), part.len(), libc::PROT_READ, flags, (-1, 0)).is_ok() {
        return;
    }
    // SAFETY: advice that changes nothing; it tells whether every page of the range is mapped.
    let whole = unsafe { libc::madvise(address(place, part), part.len(), libc::MADV_NORMAL) } == 0;
    assert!(whole, "the host has no memory for a mapping, and the guest could see what is not its own");
}
