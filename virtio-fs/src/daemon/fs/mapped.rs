//! Files that the guest maps, kept open: it maps a file piece by piece, and the file is opened once.
//!
//! They are a cache and no more: what the VMM has mapped stays mapped when its file is closed here. So there are few of
//! them, and the one that was used longest ago goes for a new one. None outlives its node, for then it would keep the
//! space of a file that was removed.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuse_backend_rs::abi::virtio_fs::SetupmappingFlags;

use super::{Shared, errno};

/// As many files.
const MOST: usize = 64;

/// A file that is open.
#[derive(Clone, Debug)]
struct Open {
    node: u64,
    writable: bool,
    file: Arc<File>,
}

/// The files, the one that was used last behind the others.
#[derive(Debug, Default)]
pub(super) struct Mapped(Mutex<Vec<Open>>);

impl Mapped {
    fn lock(&self) -> MutexGuard<'_, Vec<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a node, if it is open so that it can be mapped so. One that can be written serves to be read, too: how
    /// it is mapped is the VMM's to see to, which is told.
    fn get(&self, node: u64, writable: bool) -> Option<Arc<File>> {
        let mut files = self.lock();
        let at = files.iter().position(|open| open.node == node && (open.writable || !writable))?;
        let open = files.remove(at);
        files.push(open.clone());
        Some(open.file)
    }

    /// Keeps a file, in the place of the one that the node had.
    fn put(&self, open: Open) {
        let mut files = self.lock();
        let earlier = files.iter().position(|file| file.node == open.node).map(|at| files.remove(at));
        let oldest = (files.len() >= MOST).then(|| files.remove(0));
        // Of two that were opened at once the one of more use stays.
        let (stays, goes) = match earlier {
            Some(earlier) if earlier.writable && !open.writable => (earlier, Some(open)),
            earlier => (open, earlier),
        };
        files.push(stays);
        drop(files);
        // Files are closed without the lock.
        drop((goes, oldest));
    }

    /// Closes the file of a node.
    pub(super) fn forget(&self, node: u64) {
        let mut files = self.lock();
        let file = files.iter().position(|open| open.node == node).map(|at| files.remove(at));
        drop(files);
        drop(file);
    }

    /// Closes them all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}

impl Shared {
    /// The open file of a node, to be mapped with the rights of `flags`.
    ///
    /// It is opened with the daemon's own rights, as for OPEN and for its reason: the guest's kernel has judged when
    /// somebody opened the file there, by users, groups and ACLs that are not known here. Who is named in the request has
    /// not even asked for the file: it is whoever happened to touch a page, or a thread of the kernel's. Nor is more won by
    /// a mapping than by OPEN, READ and WRITE of the same node. A file that may be written and not read is opened to be
    /// read as well, for memory that can only be written there is none.
    pub(super) fn file_to_map(&self, inode: u64, flags: u64) -> io::Result<Arc<File>> {
        let node = self.nodes.get(inode)?;
        if !node.is_file() {
            return Err(errno(libc::ENODEV));
        }
        let writable = flags & SetupmappingFlags::WRITE.bits() != 0;
        if writable {
            self.may_change()?;
        }
        if let Some(file) = self.mapped.get(inode, writable) {
            return Ok(file);
        }
        let access = if writable { libc::O_RDWR } else { libc::O_RDONLY };
        let file = Arc::new(self.open_node(&node, access)?);
        self.mapped.put(Open { node: inode, writable, file: file.clone() });
        // Who forgets takes the node away first and the file second: if it was forgotten before the file came here, the
        // node is gone by now.
        if !self.nodes.has(inode) {
            self.mapped.forget(inode);
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests;
