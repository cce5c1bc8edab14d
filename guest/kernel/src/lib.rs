//! A host's kernel, ready for a guest: found, unpacked once, cached.
//!
//! A distribution's `vmlinuz` is a bzImage: a real-mode stub, a decompressor and a compressed vmlinux.
//! A guest that unpacks it spends most of its boot there, so the host does it, once per kernel.
//!
//! Contract: nothing here trusts a file. Every offset is checked, unpacking is bounded, and what can't be
//! unpacked says why in one sentence; [`UnpackError::is_fallback`] marks the files that a VMM can still boot
//! through the kernel's own decompressor.
//!
//! Life cycle:
//! 1. [`find`] names the kernel image of the host (or of a tree under another root).
//! 2. [`Cache::open_default`] opens the user's cache; [`Cache::none`] does without.
//! 3. [`Cache::vmlinux`] gives an open ELF: the file itself when it is one, the cached copy (five system
//!    calls), or a copy unpacked now, kept in the cache where that is possible and in a memfd otherwise.

mod bzimage;
mod cache;
pub mod elf;
mod find;
mod sparse;
mod sys;
mod unpack;

pub use bzimage::{BzImage, Compression};
pub use cache::{Cache, CacheError, Error, Origin, Vmlinux, default_dir};
pub use find::{FindError, HostKernel, compare_releases, find, running_release};
pub use sparse::write_sparse;
pub use unpack::{Kind, UnpackError, detect, unpack};

/// The little-endian u16 at `offset`, if the bytes reach that far.
fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(offset..offset.checked_add(2)?)?.try_into().ok()?))
}

/// The little-endian u32 at `offset`, if the bytes reach that far.
fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

/// The little-endian u64 at `offset`, if the bytes reach that far.
fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}
