//! Limits on what a device does in a second: bytes, operations, or both.
//!
//! 1. A worker asks [`Gate::may`] before it takes a request from its queue, and says with [`Gate::pay`] what it
//!    was; or [`Limiter::take`] does both for one that is at hand. True: go on.
//! 2. False: the request waits, and nothing is taken from its queue meanwhile. The timer has been set, which the worker
//!    waits for beside the kicks ([`Limiter::register`]); it rings when it is worth asking again.
//! 3. [`Limiter::rang`] quiets the timer; the worker asks again.
//!
//! A bucket holds what a tenth of a second may bring, so that a device that was idle may catch up by that much. A
//! request larger than the bucket is let through when the bucket is not in debt, and puts it in debt: every rate is
//! kept in the long run, and no request waits for ever. A limiter outlives the driver's resets, and so do its debts.

use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use crate::confine::Call;
use crate::worker::Events;

/// What a limiter's thread asks of the kernel beside what every worker does.
pub const CALLS: [Call; 1] = [Call::Any(libc::SYS_timerfd_settime)];

/// What a device may do in a second; `None`: as much as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes.
    pub bytes: Option<NonZeroU64>,
    /// Operations.
    pub operations: Option<NonZeroU64>,
}

impl Rates {
    /// The rates when as much is shared evenly among `n`.
    #[must_use]
    pub fn shared_by(self, n: u16) -> Self {
        let part =
            |rate: NonZeroU64| NonZeroU64::new(rate.get() / u64::from(n.max(1))).unwrap_or(NonZeroU64::MIN);
        Self { bytes: self.bytes.map(part), operations: self.operations.map(part) }
    }
}

/// A token bucket. Counts in billionths of a token, so that nothing is lost to rounding.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: i128,
    level: i128,
}

/// One token.
const TOKEN: i128 = 1_000_000_000;
/// The part of a second that a bucket holds.
const HELD: i128 = 10;

impl Bucket {
    fn new(rate: NonZeroU64) -> Self {
        let mut bucket = Self { rate: rate.get().into(), level: 0 };
        bucket.level = bucket.room();
        bucket
    }

    fn room(&self) -> i128 {
        // One token at least, or a bucket of a slow rate were never full.
        (self.rate * TOKEN / HELD).max(TOKEN)
    }

    fn fill(&mut self, passed: Duration) {
        // A billionth of a token for each nanosecond and token a second. Longer than a century fills any bucket.
        let nanoseconds = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX).min(i128::from(u64::MAX));
        self.level = self.level.saturating_add(nanoseconds.saturating_mul(self.rate)).min(self.room());
    }

    fn take(&mut self, tokens: u64) {
        self.level -= i128::from(tokens) * TOKEN;
    }

    /// How long it takes until there is a token.
    fn wait(&self) -> Option<Duration> {
        let lacks = TOKEN - self.level;
        let nanoseconds = (lacks + self.rate - 1) / self.rate;
        (lacks > 0).then(|| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }
}

/// Both buckets, without a clock.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Buckets {
    fn new(rates: Rates) -> Self {
        Self { bytes: rates.bytes.map(Bucket::new), operations: rates.operations.map(Bucket::new) }
    }

    fn both(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.bytes.iter_mut().chain(self.operations.iter_mut())
    }

    /// Whether there is room for an operation after `passed`, or how long it has to wait.
    fn may(&mut self, passed: Duration) -> Result<(), Duration> {
        self.both().for_each(|bucket| bucket.fill(passed));
        self.both().filter_map(|bucket| bucket.wait()).max().map_or(Ok(()), Err)
    }

    /// An operation of `bytes` is done.
    fn pay(&mut self, bytes: u64) {
        for (bucket, tokens) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.take(tokens);
            }
        }
    }
}

/// What a queue is served through.
pub trait Gate {
    /// Whether something may be taken from the queue now; if not, the gate's owner is told when to ask again.
    fn may(&mut self) -> bool;
    /// What was taken has so many bytes.
    fn pay(&mut self, bytes: usize);
}

/// A device's limits, with the clock and the timer for them. Owned by the thread that works.
#[derive(Debug)]
pub struct Limiter(Option<Limits>);

#[derive(Debug)]
struct Limits {
    buckets: Buckets,
    filled: Instant,
    timer: TimerFd,
}

impl Gate for Limiter {
    fn may(&mut self) -> bool {
        let Some(limits) = &mut self.0 else { return true };
        let now = Instant::now();
        let passed = now.saturating_duration_since(limits.filled);
        limits.filled = now;
        let Err(wait) = limits.buckets.may(passed) else { return true };
        // A timer that cannot be set would leave the request waiting for ever: rather none of the limit.
        limits.timer.reset(wait, None).is_err()
    }

    fn pay(&mut self, bytes: usize) {
        if let Some(limits) = &mut self.0 {
            limits.buckets.pay(bytes as u64);
        }
    }
}

impl Limiter {
    /// A limiter with full buckets; where there is nothing to limit, one that never says no.
    ///
    /// # Errors
    /// The host has no timer to give.
    pub fn new(rates: Rates) -> io::Result<Self> {
        if rates == Rates::default() {
            return Ok(Self::none());
        }
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self(Some(Limits { buckets: Buckets::new(rates), filled: Instant::now(), timer })))
    }

    /// One that never says no.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Whether an operation of `bytes` may be done now; if so, it is paid for.
    pub fn take(&mut self, bytes: usize) -> bool {
        let may = self.may();
        if may {
            self.pay(bytes);
        }
        may
    }

    /// Has `events` tell, with `token`, when a refused operation may be tried again.
    ///
    /// # Errors
    /// See [`Events::add`].
    pub fn register(&self, events: &Events, token: u64) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |limits| events.add(&limits.timer, token))
    }

    /// The timer has been heard.
    pub fn rang(&mut self) {
        if let Some(limits) = &mut self.0 {
            // Disarmed, it is not readable any more; it cannot fail on a timer of our own.
            let _ = limits.timer.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(bytes: u64, operations: u64) -> Rates {
        Rates { bytes: NonZeroU64::new(bytes), operations: NonZeroU64::new(operations) }
    }

    const NO_TIME: Duration = Duration::ZERO;

    impl Buckets {
        fn take(&mut self, bytes: u64, passed: Duration) -> Result<(), Duration> {
            self.may(passed).map(|()| self.pay(bytes))
        }
    }

    #[test]
    fn without_rates_nothing_is_refused_and_no_timer_needed() {
        let mut limiter = Limiter::new(Rates::default()).expect("made");
        assert!(limiter.0.is_none());
        assert!((0..1000).all(|_| limiter.take(usize::MAX)));
    }

    #[test]
    fn a_request_larger_than_the_bucket_passes_once_and_is_paid_for() {
        let mut buckets = Buckets::new(rates(1000, 0));
        assert_eq!(buckets.take(10_000, NO_TIME), Ok(()));
        // 100 were there, 9900 are owed, and one is wanted beside.
        assert_eq!(buckets.take(1, NO_TIME), Err(Duration::from_millis(9901)));
        assert_eq!(buckets.take(1, Duration::from_millis(9901)), Ok(()));
    }

    #[test]
    fn the_slower_of_two_rates_rules() {
        let mut buckets = Buckets::new(rates(1 << 30, 10));
        assert_eq!(buckets.take(1, NO_TIME), Ok(()));
        assert_eq!(buckets.take(1, NO_TIME), Err(Duration::from_millis(100)));
    }

    #[test]
    fn shares_add_up_to_no_more_than_the_whole_and_are_never_nothing() {
        assert_eq!(rates(1000, 9).shared_by(4), rates(250, 2));
        assert_eq!(rates(1, 0).shared_by(4), rates(1, 0));
    }

    #[test]
    fn the_timer_rings_when_it_is_worth_asking_again() {
        let mut limiter = Limiter::new(rates(0, 50)).expect("made");
        let begun = Instant::now();
        for _ in 0..5 {
            assert!(limiter.take(4096), "a tenth of a second's worth");
        }
        for _ in 0..5 {
            while !limiter.take(4096) {
                limiter.0.as_mut().expect("limits").timer.wait().expect("rings");
                limiter.rang();
            }
        }
        assert!(begun.elapsed() >= Duration::from_millis(99), "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn no_more_passes_than_the_rate_allows(
            rate in 1..1u64 << 40,
            steps in prop::collection::vec((0..1u64 << 22, 0..50_000_000u64), 1..200),
        ) {
            let mut buckets = Buckets::new(rates(rate, 0));
            let (mut passed, mut before_last, mut time) = (0u128, 0, 0u128);
            for (bytes, nanoseconds) in steps {
                time += u128::from(nanoseconds);
                if buckets.take(bytes, Duration::from_nanos(nanoseconds)).is_ok() {
                    before_last = passed;
                    passed += u128::from(bytes);
                }
            }
            // What came before the last request was within the rate and one bucket.
            let allowed = u128::from(rate) * time / 1_000_000_000 + u128::from(rate / 10).max(1);
            prop_assert!(before_last <= allowed, "{before_last} of {allowed}");
        }

        #[test]
        fn who_waits_as_long_as_told_passes(
            bytes in 1..u64::MAX, operations in 1..u64::MAX, sizes in prop::collection::vec(0..u64::MAX, 1..20),
        ) {
            let mut buckets = Buckets::new(rates(bytes, operations));
            for size in sizes {
                if let Err(wait) = buckets.take(size, NO_TIME) {
                    prop_assert!(wait > NO_TIME);
                    prop_assert_eq!(buckets.take(size, wait), Ok(()));
                }
            }
        }
    }
}
