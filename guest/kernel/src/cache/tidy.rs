//! Keeps the cache from growing: half-written files and kernels of long ago.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Kernels kept: a host has a few installed, a developer some more.
pub(super) const KEPT: usize = 8;
/// Nobody takes an hour to write a kernel.
const STALE_SECONDS: i64 = 3600;

/// Removes what killed processes left in `tmp`. Best effort.
pub(super) fn sweep(tmp: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        // The ctime, because a sealed file's mtime is not a time.
        let stale = entry.metadata().is_ok_and(|meta| now.saturating_sub(meta.ctime()) > STALE_SECONDS);
        if stale {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes all but the [`KEPT`] newest kernels (never `current`), and the index entries that led to them.
/// Best effort; a VM that runs one keeps its open file.
pub(super) fn prune(by_build_id: &Path, index: &Path, current: &str) {
    let mut kernels: Vec<_> = fs::read_dir(by_build_id)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name() != current)
        .filter_map(|entry| Some((entry.metadata().ok()?.ctime(), entry.path())))
        .collect();
    kernels.sort();
    let surplus = kernels.len().saturating_sub(KEPT - 1);
    for (_, path) in kernels.iter().take(surplus) {
        let _ = fs::remove_dir_all(path);
    }
    for entry in fs::read_dir(index).into_iter().flatten().flatten() {
        if fs::metadata(entry.path()).is_err() {
            let _ = fs::remove_file(entry.path());
        }
    }
}
