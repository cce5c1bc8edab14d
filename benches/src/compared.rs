//! What was measured of one kind of work, ours and another's.

use serde::{Deserialize, Serialize};

use crate::Beside;

/// A line of the device benchmark's output, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum DeviceLine {
    /// Work that was done.
    Compared(Compared),
    /// After all work.
    Memory {
        /// Whose.
        subject: String,
        /// Memory beside the guest's.
        beside: Beside,
    },
}

/// One subject's times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Times {
    /// Whose.
    pub subject: String,
    /// Nanoseconds of each run, in their order.
    pub nanoseconds: Vec<u64>,
}

/// One kind of work, by all subjects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Which work.
    pub work: String,
    /// What one of its pieces is called.
    pub piece: String,
    /// How many pieces a run has.
    pub pieces: u64,
    /// Ours first.
    pub times: Vec<Times>,
}

impl Times {
    /// The median.
    pub fn median(&self) -> u64 {
        self.quartile(2)
    }

    /// How far the quartiles lie apart, as a share of the median: what is the same within this may be noise.
    pub fn spread(&self) -> f64 {
        ratio(self.quartile(3) - self.quartile(1), self.median())
    }

    /// How much faster than `other` this is: above 1 this is the faster.
    pub fn against(&self, other: &Self) -> f64 {
        ratio(other.median(), self.median())
    }

    /// Whether this is not slower than `other`, beyond the noise of both.
    pub fn holds_against(&self, other: &Self) -> bool {
        self.against(other) >= 1.0 - self.spread() - other.spread()
    }

    fn quartile(&self, n: usize) -> u64 {
        let mut all = self.nanoseconds.clone();
        all.sort_unstable();
        all.get((all.len() * n / 4).min(all.len().saturating_sub(1))).copied().unwrap_or(0)
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // times far below 2^52
    if b == 0 { f64::INFINITY } else { a as f64 / b as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(nanoseconds: &[u64]) -> Times {
        Times { subject: String::new(), nanoseconds: nanoseconds.to_vec() }
    }

    fn held(ours: &[u64], other: &[u64]) -> bool {
        times(ours).holds_against(&times(other))
    }

    #[test]
    fn slower_is_missed_only_beyond_the_noise() {
        assert!(held(&[100, 100, 100, 100], &[100, 101, 100, 100]));
        assert!(!held(&[102, 102, 102, 102], &[100, 100, 100, 100]));
        assert!(held(&[102, 102, 102, 102], &[100, 103, 100, 103]));
    }

    #[test]
    fn one_run_that_was_disturbed_is_no_spread() {
        let times = times(&[10, 10, 900, 10, 10]);
        assert_eq!(times.median(), 10);
        assert!(times.spread() < 1e-9);
    }
}
