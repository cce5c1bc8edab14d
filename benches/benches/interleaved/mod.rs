//! Subjects measured in turn, which criterion by itself does not do: whenever one has no run left to show, every one has
//! its turn. What is slow about the machine in that minute is slow for all.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};

/// What criterion takes for warming up.
const WARM_UP: Duration = Duration::from_millis(1);

/// Runs of one kind of work by one subject: those not yet shown, and all that were made.
#[derive(Clone, Default)]
struct Runs {
    waiting: VecDeque<Duration>,
    all: Vec<u64>,
}

impl Runs {
    fn add(&mut self, times: Vec<Duration>) {
        self.all.extend(times.iter().map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)));
        self.waiting.extend(times);
    }
}

/// Has criterion show each of `works` by each of `names`. `turn` is a turn of a subject, by number: runs of each kind of
/// work. What comes back are the nanoseconds of all runs, by work and subject.
pub(crate) fn measure(
    criterion: &mut Criterion,
    works: &[&str],
    names: &[String],
    mut turn: impl FnMut(usize) -> Vec<Vec<Duration>>,
) -> Vec<Vec<Vec<u64>>> {
    let runs = RefCell::new(vec![vec![Runs::default(); names.len()]; works.len()]);
    let mut round = || {
        for subject in 0..names.len() {
            let done = turn(subject);
            let mut runs = runs.borrow_mut();
            let places = runs.iter_mut().filter_map(|work| work.get_mut(subject));
            places.zip(done).for_each(|(runs, times)| runs.add(times));
        }
    };
    let waiting =
        |work: usize, subject: usize| runs.borrow_mut().get_mut(work)?.get_mut(subject)?.waiting.pop_front();
    let mut next = |work, subject| loop {
        match waiting(work, subject) {
            Some(time) => {
                // Warming up, criterion asks for twice as many runs again and again until its time is over, which a run
                // that is only remembered does not take.
                std::thread::sleep(WARM_UP);
                return time;
            }
            None => round(),
        }
    };
    works.iter().enumerate().for_each(|(at, work)| show(criterion, work, names, |subject| next(at, subject)));
    runs.into_inner().into_iter().map(|work| work.into_iter().map(|runs| runs.all).collect()).collect()
}

fn show(criterion: &mut Criterion, work: &str, names: &[String], mut next: impl FnMut(usize) -> Duration) {
    let mut group = criterion.benchmark_group(work);
    // A run is long: ten of each, one a sample, and one to warm up; few resamplings, for processors that are slow.
    group.sample_size(10).sampling_mode(SamplingMode::Flat).nresamples(1001);
    group.warm_up_time(WARM_UP).measurement_time(Duration::from_millis(1));
    for (subject, name) in names.iter().enumerate() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| next(subject)).sum());
        });
    }
    group.finish();
}
