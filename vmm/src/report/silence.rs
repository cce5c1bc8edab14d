//! Noticing that a boot has gone silent.

use std::time::{Duration, Instant};

use super::Milestone;

/// Watches a boot for signs of life. Pure: the time and the signs are told to it.
///
/// 1. Made when the guest starts.
/// 2. Asked by [`Silence::check`] whenever its last answer's time has passed.
/// 3. Over when the guest's init runs its command: from then on silence is the command's business.
#[derive(Debug)]
pub struct Silence {
    limit: Duration,
    /// The signs seen last, and when they changed.
    seen: (Milestone, u64),
    since: Instant,
}

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask again after this time.
    Wait(Duration),
    /// The boot has been silent for longer than is allowed.
    Silent,
    /// The boot is over; never ask again.
    Over,
}

impl Silence {
    /// A watch from `now` on that allows `seconds` of silence; `None` for 0, no limit.
    pub fn new(seconds: u32, now: Instant) -> Option<Self> {
        let limit = Duration::from_secs(seconds.into());
        (seconds > 0).then_some(Self { limit, seen: (Milestone::Exec, 0), since: now })
    }

    /// Looks at the latest milestone and at the number of bytes written to all consoles so far.
    pub fn check(&mut self, now: Instant, latest: Milestone, written: u64) -> Verdict {
        if latest >= Milestone::Marker {
            return Verdict::Over;
        }
        if self.seen != (latest, written) {
            (self.seen, self.since) = ((latest, written), now);
        }
        match self.limit.checked_sub(now.saturating_duration_since(self.since)) {
            Some(Duration::ZERO) | None => Verdict::Silent,
            Some(left) => Verdict::Wait(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_no_watch() {
        assert!(Silence::new(0, Instant::now()).is_none());
    }

    #[test]
    fn a_boot_without_a_sign_of_life_is_silent_after_the_limit() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut watch = Silence::new(10, start).unwrap();
        assert_eq!(watch.check(after(4), Milestone::Exec, 0), Verdict::Wait(Duration::from_secs(6)));
        assert_eq!(watch.check(after(10), Milestone::Exec, 0), Verdict::Silent);
    }

    #[test]
    fn a_byte_or_a_milestone_starts_the_time_anew() {
        let start = Instant::now();
        let after = |s| start + Duration::from_secs(s);
        let mut watch = Silence::new(10, start).unwrap();
        assert_eq!(watch.check(after(9), Milestone::FirstEntry, 0), Verdict::Wait(Duration::from_secs(10)));
        assert_eq!(watch.check(after(18), Milestone::FirstEntry, 1), Verdict::Wait(Duration::from_secs(10)));
        assert_eq!(watch.check(after(27), Milestone::FirstEntry, 1), Verdict::Wait(Duration::from_secs(1)));
        assert_eq!(watch.check(after(28), Milestone::FirstEntry, 1), Verdict::Silent);
    }

    #[test]
    fn after_the_marker_silence_is_the_commands_business() {
        let start = Instant::now();
        let mut watch = Silence::new(1, start).unwrap();
        assert_eq!(watch.check(start + Duration::from_secs(100), Milestone::Marker, 0), Verdict::Over);
    }
}
