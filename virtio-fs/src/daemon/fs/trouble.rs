//! What is wrong with the host, which the guest hears of by errors alone: said once in the log.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sys;

/// What has been said.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    full: AtomicBool,
    removed: AtomicBool,
}

impl Trouble {
    /// Looks at why a request was refused, in the directory `root`.
    pub(super) fn note(&self, root: &impl AsFd, why: &io::Error) {
        match why.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                if !self.full.swap(true, Ordering::Relaxed) =>
            {
                log::warn!("the shared directory's disk is full: the guest gets errors ({why})");
            }
            io::ErrorKind::NotFound if !self.removed.load(Ordering::Relaxed) => {
                let is_gone = sys::stat(root).is_ok_and(|(st, _)| st.st_nlink == 0);
                if is_gone && !self.removed.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "the shared directory was removed: the guest gets errors until it is mounted anew"
                    );
                }
            }
            _ => {}
        }
    }
}
