//! A read-only mapping of part of a file.
#![allow(unsafe_code)] // mmap

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Mappings begin on a page.
const PAGE: u64 = 4096;

/// Part of a file, mapped until dropped.
pub(super) struct Mapped {
    base: *mut libc::c_void,
    /// Bytes in front of the part, up to the page it begins in.
    head: usize,
    len: usize,
}

impl Mapped {
    /// Maps `len` bytes at `offset`, all of which the file must have.
    pub(super) fn new(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let end = offset.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        if end > file.metadata()?.len() || len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let start = offset - offset % PAGE;
        let head = usize::try_from(offset - start).map_err(io::Error::other)?;
        let at = libc::off_t::try_from(start).map_err(io::Error::other)?;
        // SAFETY: a fresh read-only mapping at an address the kernel chooses, of a range the file has.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), head + len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), at)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base, head, len })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has head + len bytes and lives as long as self; a file changed meanwhile changes
        // bytes, which nobody here relies on to stay the same between two looks.
        unsafe { std::slice::from_raw_parts(self.base.cast::<u8>().add(self.head), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing borrows it any more.
        unsafe { libc::munmap(self.base, self.head + self.len) };
    }
}
