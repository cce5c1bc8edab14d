//! From the page cache to guest memory in one copy, without the pages that are all zero.
//!
//! The file is mapped and its pages are copied by this thread. read(2) would do the same copy, but look up each
//! page by itself, and it could not skip zeros without having copied them.
//!
//! Hazard: a file that is cut while it is mapped raises SIGBUS. Kernels we unpacked lie in a cache that only this
//! user can write; whoever names another file is trusted not to truncate it in the millisecond it takes.

mod sys;

use std::fs::File;
use std::io;

use vm_memory::VolatileSlice;

/// What is skipped or copied as one.
const PAGE: usize = 4096;

/// Copies the file's bytes from `offset` on into `to`, which must be zero already; returns how many were copied.
pub(super) fn copy(file: &File, offset: u64, to: &VolatileSlice<'_>) -> io::Result<u64> {
    let from = sys::Mapped::new(file, offset, to.len())?;
    let mut copied = 0;
    for (page, start) in from.bytes().chunks(PAGE).zip((0..).step_by(PAGE)) {
        if !is_zero(page) {
            let target = to.subslice(start, page.len()).map_err(io::Error::other)?;
            target.copy_from(page);
            copied += page.len() as u64;
        }
    }
    Ok(copied)
}

/// Most pages that are not zero say so in their first bytes.
fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|line| line.iter().fold(0, |all, b| all | b) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_pages_with_something_in_them_are_copied() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut content = vec![0; 5 * PAGE + 100];
        content[PAGE + 4095] = 1;
        content[5 * PAGE + 99] = 2;
        file.write_all(&content).expect("written");
        let mut memory = vec![0; content.len() - 10];
        let copied = copy(&file, 10, &VolatileSlice::from(memory.as_mut_slice())).expect("copied");
        assert_eq!(memory, content[10..]);
        assert!(copied < 3 * PAGE as u64, "{copied}");
    }

    #[test]
    fn a_range_past_the_end_is_an_error_not_a_signal() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"short").expect("written");
        let mut memory = vec![0; 3 * PAGE];
        assert!(copy(&file, 0, &VolatileSlice::from(memory.as_mut_slice())).is_err());
    }
}
