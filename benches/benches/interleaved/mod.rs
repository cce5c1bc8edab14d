//! Subjects measured in turn, which criterion by itself does not do: whenever one has no run left to show, every one is
//! run once. What is slow about the machine in that minute is slow for all.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};

/// What criterion takes for warming up.
const WARM_UP: Duration = Duration::from_millis(1);

/// Runs made and not yet shown, by subject, and all that were made.
#[derive(Default)]
struct Runs {
    waiting: VecDeque<Duration>,
    all: Vec<u64>,
}

impl Runs {
    fn add(&mut self, time: Duration) {
        self.waiting.push_back(time);
        self.all.push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// Has criterion show `run` of each of `names`, by number; the nanoseconds of all runs, none where criterion was told to
/// leave them out.
pub(crate) fn measure(
    criterion: &mut Criterion,
    what: &str,
    names: &[String],
    mut run: impl FnMut(usize) -> Duration,
) -> Vec<Vec<u64>> {
    let runs: RefCell<Vec<Runs>> = RefCell::new(names.iter().map(|_| Runs::default()).collect());
    let mut round = || runs.borrow_mut().iter_mut().enumerate().for_each(|(at, runs)| runs.add(run(at)));
    let mut group = criterion.benchmark_group(what);
    // A run is long: ten of each, one a sample, and one to warm up; few resamplings, for processors that are slow.
    group.sample_size(10).sampling_mode(SamplingMode::Flat).nresamples(1001);
    group.warm_up_time(WARM_UP).measurement_time(Duration::from_millis(1));
    for (at, name) in names.iter().enumerate() {
        let mut next = || loop {
            let waiting = runs.borrow_mut().get_mut(at).and_then(|runs| runs.waiting.pop_front());
            match waiting {
                Some(time) => {
                    // Warming up, criterion asks for twice as many runs again and again until its time is over, which a
                    // run that is only remembered does not take.
                    std::thread::sleep(WARM_UP);
                    return time;
                }
                None => round(),
            }
        };
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| next()).sum());
        });
    }
    group.finish();
    runs.into_inner().into_iter().map(|runs| runs.all).collect()
}
