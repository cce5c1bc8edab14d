//! Reading folders.

use std::ffi::CStr;
use std::io;
use std::sync::PoisonError;

use fuse_backend_rs::api::filesystem::{DirEntry, Entry};

use super::nodes::Node;
use super::{Shared, sys};

/// Most bytes of entries that are read for one request, and fewest: one entry with the longest name.
const MOST: usize = 128 << 10;
const LEAST: usize = 512;
/// An entry in a reply is longer than the kernel's, most of all one with a short name: 32 bytes for 24, and with its
/// attributes 160. So much of a reply's size is read for it.
const BARE: (u32, u32) = (3, 4);
const WITH_ATTRIBUTES: (u32, u32) = (3, 20);
/// Of an entry before its name: inode, place of the next one, length, kind (getdents64(2)).
const HEAD: usize = 19;

/// Takes an entry; how many bytes it took, 0 when there is no room.
type Add<'a> = dyn FnMut(DirEntry<'_>, &CStr) -> io::Result<usize> + 'a;

impl Shared {
    /// Gives the entries of a folder from `offset` on, as many as go into about `size` bytes.
    pub(super) fn list(
        &self,
        inode: u64,
        handle: u64,
        (size, offset): (u32, u64),
        add: &mut Add<'_>,
    ) -> io::Result<()> {
        self.read(inode, handle, (share(size, BARE), offset), add)
    }

    /// No more is read than goes into the reply: what is left over has to be sought again, and a file system that counts
    /// its entries, as a tmpfs did before Linux 6.6, finds another place then if some have gone meanwhile.
    fn read(
        &self,
        inode: u64,
        handle: u64,
        (bytes, offset): (usize, u64),
        add: &mut Add<'_>,
    ) -> io::Result<()> {
        let handle = self.handles.get(handle, inode)?;
        let mut bytes = vec![0; bytes];
        let read = {
            // The position belongs to the open file, which two requests may read at once.
            let _position = handle.position.lock().unwrap_or_else(PoisonError::into_inner);
            sys::entries(&handle.file, offset, &mut bytes)?
        };
        let mut rest = bytes.get(..read).unwrap_or_default();
        let mut first = true;
        while let Some((entry, name, next)) = parse(rest) {
            match add(entry, name) {
                Ok(0) => break,
                Ok(_) => {}
                // What is in the reply already has been counted as looked up.
                Err(e) if first => return Err(e),
                Err(_) => break,
            }
            (rest, first) = (next, false);
        }
        Ok(())
    }

    /// As [`Shared::list`], each entry with its attributes, looked up on behalf of the guest.
    pub(super) fn list_with_attributes(
        &self,
        inode: u64,
        handle: u64,
        (size, offset): (u32, u64),
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let folder = self.nodes.get(inode)?;
        self.read(inode, handle, (share(size, WITH_ATTRIBUTES), offset), &mut |entry, name| {
            let found = self.look(&folder, name);
            let number = found.inode;
            let added = add(entry, found);
            if !matches!(added, Ok(1..)) && number != 0 {
                self.nodes.forget([(number, 1)]);
            }
            added
        })
    }

    /// An entry's node; none for the folder itself, its parent, what has just gone, and what cannot be looked at, as
    /// another user's FUSE mount: the guest has its name, and the error when it asks for more.
    fn look(&self, folder: &Node, name: &CStr) -> Entry {
        match name.to_bytes() {
            b"." | b".." => Entry::default(),
            _ => self.find(folder, name).unwrap_or_default(),
        }
    }
}

/// How many bytes are read for a reply of `size`.
fn share(size: u32, (part, of): (u32, u32)) -> usize {
    (size as usize / of as usize * part as usize).clamp(LEAST, MOST)
}

/// The first entry, its name, and what follows it.
fn parse(bytes: &[u8]) -> Option<(DirEntry<'_>, &CStr, &[u8])> {
    let head = bytes.get(..HEAD)?;
    let [ino, offset] = [head.get(0..8)?, head.get(8..16)?].map(|b| b.try_into().map(u64::from_ne_bytes));
    let length = u16::from_ne_bytes(head.get(16..18)?.try_into().ok()?);
    let (entry, rest) = bytes.split_at_checked(length.into())?;
    let name = CStr::from_bytes_until_nul(entry.get(HEAD..)?).ok()?;
    let type_ = u32::from(*head.get(18)?);
    Some((DirEntry { ino: ino.ok()?, offset: offset.ok()?, type_, name: name.to_bytes() }, name, rest))
}
