//! Taking a boot's times and counts while it happens.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::memory::beside;
use super::{Milestone, Reached, Report};

/// Counters by KVM's own names; all vCPUs added up.
pub type Counters = BTreeMap<String, u64>;

/// Reads the counters as they stand; called on whichever thread reaches a milestone.
type Counting = Box<dyn Fn() -> Counters + Send + Sync>;

/// Records one boot. Clones record the same one.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Sheet>);

#[derive(Default)]
struct Sheet {
    /// The latest milestone reached, as its number.
    latest: AtomicU8,
    copied: AtomicU64,
    /// Present when a report was asked for.
    detail: Option<Detail>,
}

struct Detail {
    began: Instant,
    /// Taken one after the other: neither is held while the other is.
    reached: Mutex<Vec<Reached>>,
    counting: Mutex<Option<Counting>>,
}

impl Recorder {
    /// A recorder that only knows how far the boot came.
    pub fn off() -> Self {
        Self::default()
    }

    /// A recorder for a report. The process's beginning is placed by the CPU time it has used so far, so call this
    /// early; whatever the parent's fork did before exec counts in.
    pub fn start() -> Self {
        let used = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Into::into);
        let now = Instant::now();
        let began = now.checked_sub(used).unwrap_or(now);
        let first = Reached { milestone: Milestone::Exec, at: Duration::ZERO, counters: Counters::new() };
        let reached = Mutex::new(vec![first]);
        let detail = Some(Detail { began, reached, counting: Mutex::new(None) });
        Self(Arc::new(Sheet { detail, ..Sheet::default() }))
    }

    /// Whether a report was asked for, so that counting is worth its cost.
    pub fn is_on(&self) -> bool {
        self.0.detail.is_some()
    }

    /// The boot reaches `milestone`, now. Only the first time counts.
    pub fn reach(&self, milestone: Milestone) {
        self.0.latest.fetch_max(milestone as u8, Ordering::AcqRel);
        if let Some(detail) = &self.0.detail {
            detail.reach(milestone);
        }
    }

    /// The latest milestone reached.
    pub fn latest(&self) -> Milestone {
        let number = usize::from(self.0.latest.load(Ordering::Acquire));
        Milestone::ALL.get(number).copied().unwrap_or(Milestone::Exec)
    }

    /// From now on `counting` gives the counters at each milestone.
    pub fn count_with(&self, counting: impl Fn() -> Counters + Send + Sync + 'static) {
        if let Some(detail) = &self.0.detail {
            *detail.counting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(counting));
        }
    }

    /// Adds to the bytes copied into guest memory before it ran.
    pub fn add_copied(&self, bytes: u64) {
        self.0.copied.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The report, if one was asked for. Call it when the machine has ended and before its memory is unmapped:
    /// `guest` are the host addresses of guest memory, which is left out of the memory counted.
    pub fn finish(&self, guest: &[Range<u64>], end: impl fmt::Display) -> Option<Report> {
        self.reach(Milestone::End);
        let detail = self.0.detail.as_ref()?;
        // What the counters read from goes with the machine.
        *detail.counting.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Some(Report {
            end: end.to_string(),
            reached: detail.reached.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            copied: self.0.copied.load(Ordering::Relaxed),
            beside: beside(guest),
        })
    }
}

impl Detail {
    fn reach(&self, milestone: Milestone) {
        let at = self.began.elapsed();
        let known = |list: &[Reached]| list.iter().any(|r| r.milestone == milestone);
        if known(&self.reached.lock().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        let counters = counting.as_ref().map(|count| count()).unwrap_or_default();
        drop(counting);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if !known(&reached) {
            reached.push(Reached { milestone, at, counters });
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("latest", &self.latest()).field("on", &self.is_on()).finish()
    }
}
