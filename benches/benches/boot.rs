//! Boots compared on the wall's clock: ours, QEMU's microvm and QEMU's q35, same kernel, initrd and command line.
//!
//! `cargo xtask bench boot` prepares the guest and runs it where guests run; `cargo bench -p benches --bench boot` does
//! once these variables name what to boot: `KIWI_VMM`, `KIWI_KERNEL`, `KIWI_INITRD`, `KIWI_CMDLINE`.
#![allow(missing_docs)] // criterion's macros make public items
#![allow(clippy::panic)] // a benchmark that cannot boot has nothing to measure

mod given;
mod interleaved;

use std::path::PathBuf;
use std::time::Duration;

use benches::Subject;
use criterion::{Criterion, criterion_group, criterion_main};
use given::{given, guest};

/// A boot that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(120);

fn subjects() -> Vec<Subject> {
    let guest = guest();
    let qemu = ["qemu-system-x86_64".to_owned()];
    let vmm = PathBuf::from(given("KIWI_VMM"));
    vec![Subject::kiwi("kiwi", &vmm, &guest), Subject::microvm(&qemu, &guest), Subject::q35(&qemu, &guest)]
}

fn boots(criterion: &mut Criterion) {
    let subjects = subjects();
    let names: Vec<_> = subjects.iter().map(|s| s.name.clone()).collect();
    interleaved::measure(criterion, &["exec to marker"], &names, |at| {
        let subject = subjects.get(at).unwrap_or_else(|| panic!("there are {} subjects", subjects.len()));
        let timed = benches::time(subject, DEADLINE).unwrap_or_else(|why| panic!("{why}"));
        vec![vec![Duration::from_nanos(timed.marker)]]
    });
}

criterion_group!(all, boots);
criterion_main!(all);
