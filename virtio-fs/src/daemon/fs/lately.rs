//! Names that were looked up lately, and the nodes that they were: a guess that is never relied on.
//!
//! To look up a file that the guest knows takes one system call, for its attributes; one that it does not know must be
//! opened before. Which of them a name will be is said by nothing else, and names are looked up again and again.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::nodes::Key;

/// As many names; each has one place, which another may take.
const PLACES: usize = 4096;

/// Half of a place says whose name it is, the other which node.
const LOW: u64 = u32::MAX as u64;

/// The names.
#[derive(Debug)]
pub(super) struct Lately(Box<[AtomicU64]>);

impl Default for Lately {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }
}

/// A name in a folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark(u64);

impl Mark {
    /// Of `name` in `folder`.
    pub(super) fn new(folder: &Key, name: &CStr) -> Self {
        let mut hasher = DefaultHasher::new();
        (folder, name).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn half(self) -> u64 {
        self.0 & !LOW
    }
}

impl Lately {
    fn place(&self, mark: Mark) -> Option<&AtomicU64> {
        usize::try_from(mark.0 % PLACES as u64).ok().and_then(|place| self.0.get(place))
    }

    /// The number of the node that it may be.
    pub(super) fn guess(&self, mark: Mark) -> Option<u64> {
        let value = self.place(mark)?.load(Ordering::Relaxed);
        (value & !LOW == mark.half()).then_some(value & LOW)
    }

    /// It is the node `number` now.
    pub(super) fn note(&self, mark: Mark, number: u64) {
        if let Some(place) = self.place(mark) {
            place.store(mark.half() | number & LOW, Ordering::Relaxed);
        }
    }
}
