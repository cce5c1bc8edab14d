//! What the guest knows: nodes (files that it has looked up) and handles (files that it has open), by numbers.
//!
//! A number is given out once and never again, so that one that is stale or made up finds nothing. A node is a
//! descriptor that only names its file (O_PATH): however the file is moved about, the descriptor stays with it, and no
//! path is ever walked.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The number of the shared directory itself.
pub(super) const ROOT: u64 = 1;

/// Which file a node is: device, inode and mount, for one file may be seen through two mounts of different rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) mount: u64,
}

/// A file that the guest has looked up.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) key: Key,
    /// S_IFMT of its mode.
    kind: u32,
    file: OwnedFd,
    /// How often it was looked up and not forgotten; 0 only under the table's lock, when it goes.
    lookups: AtomicU64,
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Node {
    /// Whether it may be opened: to open anything else would reach a driver of the host's, or wait for a peer.
    pub(super) fn is_openable(&self) -> bool {
        matches!(self.kind, libc::S_IFREG | libc::S_IFDIR)
    }

    /// Whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        self.kind == libc::S_IFREG
    }

    /// How often it was looked up and not forgotten.
    #[cfg(test)]
    pub(super) fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Whether it is a symbolic link.
    pub(super) fn is_link(&self) -> bool {
        self.kind == libc::S_IFLNK
    }
}

#[derive(Debug, Default)]
struct Table {
    nodes: HashMap<u64, Arc<Node>>,
    numbers: HashMap<Key, u64>,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    table: RwLock<Table>,
    next: AtomicU64,
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

impl Nodes {
    /// The shared directory alone.
    pub(super) fn new(root: OwnedFd, key: Key) -> Self {
        let nodes = Self { table: RwLock::default(), next: AtomicU64::new(ROOT) };
        nodes.found(root, key, libc::S_IFDIR);
        nodes
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of a number.
    ///
    /// # Errors
    /// ESTALE: there is none.
    pub(super) fn get(&self, number: u64) -> io::Result<Arc<Node>> {
        self.read().nodes.get(&number).cloned().ok_or_else(stale)
    }

    /// Whether there is such a node.
    pub(super) fn has(&self, number: u64) -> bool {
        self.read().nodes.contains_key(&number)
    }

    /// Notes that the guest has looked up `file`; its number.
    pub(super) fn found(&self, file: OwnedFd, key: Key, mode: u32) -> u64 {
        if let Some(number) = self.known(&key) {
            return number;
        }
        let mut table = self.write();
        if let Some(number) = again(&table, &key) {
            return number;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let lookups = AtomicU64::new(1);
        let node = Node { key, kind: mode & libc::S_IFMT, file, lookups };
        table.numbers.insert(key, number);
        table.nodes.insert(number, Arc::new(node));
        number
    }

    /// Notes that the guest has looked up the file `key`, if it knows it already; its number.
    pub(super) fn known(&self, key: &Key) -> Option<u64> {
        // Counted under the lock, so that nobody forgets the node in between.
        again(&self.read(), key)
    }

    /// Notes that the guest has forgotten `count` lookups of each node; those that are gone by that.
    pub(super) fn forget(&self, all: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, Arc<Node>)> {
        let mut gone = Vec::new();
        let mut table = self.write();
        for (number, count) in all {
            let Some(node) = table.nodes.get(&number).filter(|_| number != ROOT) else { continue };
            let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
            node.lookups.store(left, Ordering::Relaxed);
            if left == 0 {
                let key = node.key;
                table.numbers.remove(&key);
                gone.extend(table.nodes.remove(&number).map(|node| (number, node)));
            }
        }
        // Files are closed by who drops them, without the lock.
        gone
    }

    /// Forgets everything but the shared directory.
    pub(super) fn clear(&self) {
        let mut table = self.write();
        let nodes = std::mem::take(&mut *table);
        if let Some(root) = nodes.nodes.get(&ROOT) {
            table.numbers.insert(root.key, ROOT);
            table.nodes.insert(ROOT, root.clone());
        }
        drop(table);
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.read().nodes.len()
    }
}

fn again(table: &Table, key: &Key) -> Option<u64> {
    let number = *table.numbers.get(key)?;
    table.nodes.get(&number)?.lookups.fetch_add(1, Ordering::Relaxed);
    Some(number)
}

/// A file that the guest has open, and of which node.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) node: u64,
    pub(super) file: File,
    /// Held while a directory's position is used.
    pub(super) position: std::sync::Mutex<()>,
}

/// All handles.
#[derive(Debug, Default)]
pub(super) struct Handles {
    table: RwLock<HashMap<u64, Arc<Handle>>>,
    next: AtomicU64,
}

impl Handles {
    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u64, Arc<Handle>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an open file; its number.
    pub(super) fn add(&self, node: u64, file: File) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.write().insert(number, Arc::new(Handle { node, file, position: std::sync::Mutex::default() }));
        number
    }

    /// The open file of a number and of that node.
    ///
    /// # Errors
    /// EBADF: there is none.
    pub(super) fn get(&self, number: u64, node: u64) -> io::Result<Arc<Handle>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let handle = table.get(&number).filter(|handle| handle.node == node).cloned();
        handle.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Closes it.
    ///
    /// # Errors
    /// See [`Handles::get`].
    pub(super) fn remove(&self, number: u64, node: u64) -> io::Result<()> {
        self.get(number, node)?;
        let handle = self.write().remove(&number);
        drop(handle);
        Ok(())
    }

    /// Closes them all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.write());
        drop(all);
    }
}
