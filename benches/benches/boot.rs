//! Boots compared on the wall's clock: ours, QEMU's microvm and QEMU's q35, same kernel, initrd and command line.
//!
//! `cargo xtask bench` prepares the guest and runs it where guests run; `cargo bench -p benches --bench boot` does once
//! these variables name what to boot: `KIWI_VMM`, `KIWI_KERNEL`, `KIWI_INITRD`, `KIWI_CMDLINE`.
//!
//! Boots are interleaved, which criterion by itself does not do: whenever one subject has no boot left to show, every
//! subject is booted once. What is slow about the machine in that minute is slow for all.
#![allow(missing_docs)] // criterion's macros make public items
#![allow(clippy::panic)] // a benchmark that cannot boot has nothing to measure

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use benches::{Guest, Subject};
use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};

/// A boot that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// Boots made and not yet shown.
struct Rounds {
    subjects: Vec<(Subject, VecDeque<Duration>)>,
}

impl Rounds {
    /// The next boot of `subject`, from a round of boots of all.
    fn next(&mut self, subject: usize) -> Duration {
        loop {
            if let Some(time) = self.subjects.get_mut(subject).and_then(|(_, times)| times.pop_front()) {
                return time;
            }
            for (subject, times) in &mut self.subjects {
                let timed = benches::time(subject, DEADLINE).unwrap_or_else(|why| panic!("{why}"));
                times.push_back(Duration::from_nanos(timed.marker));
            }
        }
    }
}

fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this with `cargo xtask bench`"))
}

fn subjects() -> Vec<Subject> {
    let guest = Guest {
        kernel: given("KIWI_KERNEL").into(),
        initrd: given("KIWI_INITRD").into(),
        cmdline: given("KIWI_CMDLINE"),
        mib: 256,
    };
    let qemu = ["qemu-system-x86_64".to_owned()];
    let vmm = PathBuf::from(given("KIWI_VMM"));
    vec![Subject::kiwi("kiwi", &vmm, &guest), Subject::microvm(&qemu, &guest), Subject::q35(&qemu, &guest)]
}

fn boots(criterion: &mut Criterion) {
    let subjects = subjects();
    let names: Vec<_> = subjects.iter().map(|s| s.name.clone()).collect();
    let rounds =
        RefCell::new(Rounds { subjects: subjects.into_iter().map(|s| (s, VecDeque::new())).collect() });
    let mut group = criterion.benchmark_group("exec to marker");
    // A boot is long: ten of each, one a sample, and one to warm up.
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    for (at, name) in names.iter().enumerate() {
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter_custom(|boots| (0..boots).map(|_| rounds.borrow_mut().next(at)).sum());
        });
    }
    group.finish();
}

criterion_group!(all, boots);
criterion_main!(all);
