//! Log lines that a guest can cause: few, however often it does.

use std::sync::atomic::{AtomicU64, Ordering};

/// Lines a place writes before it begins to leave some out.
const FIRST: u64 = 8;

/// Counts how often a place was reached.
#[derive(Debug, Default)]
pub struct Throttle(AtomicU64);

impl Throttle {
    /// A place not reached yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether this time is to be logged: the first eight are, then every power of two, so that a guest that does
    /// something a million times writes some twenty lines. Gives the count.
    pub fn pass(&self) -> Option<u64> {
        let n = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        (n <= FIRST || n.is_power_of_two()).then_some(n)
    }
}

/// Warns about something a guest has done; see [`Throttle`].
#[macro_export]
macro_rules! warn_of_guest {
    ($($words:tt)+) => {{
        static PLACE: $crate::throttle::Throttle = $crate::throttle::Throttle::new();
        if let Some(times) = PLACE.pass() {
            ::tracing::warn!(times, $($words)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_times_are_a_few_lines() {
        let place = Throttle::new();
        let lines = (0..1_000_000).filter(|_| place.pass().is_some()).count();
        assert!((8..32).contains(&lines), "{lines}");
    }
}
