//! What a boot may cost at most. Each limit is a line of the result, held or missed.

use std::fmt;

use benches::Counted;

use super::staging::{ELF, GENERIC, LZ4, SANDBOX, XZ};
use super::table::{Results, millions, ratio};

/// A limit and what was measured against it.
pub(super) struct Verdict {
    what: String,
    measured: String,
    limit: String,
    pub(super) held: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.held { "held  " } else { "MISSED" };
        write!(f, "{word} {}: {} (at most {})", self.what, self.measured, self.limit)
    }
}

/// Instructions from exec to the first guest entry.
const FIRST_ENTRY: u64 = 25_000_000;
/// Memory beside the guest's, in KiB.
const RESIDENT: u64 = 4096;
const ANONYMOUS: u64 = 512;

/// Holds `results` against every limit whose subjects were measured.
pub(super) fn check(results: &Results) -> Vec<Verdict> {
    let (microvm, q35) = ("QEMU microvm", "QEMU q35");
    let mut all = Vec::new();
    all.extend(time(results, ELF, microvm, 0.93));
    all.extend(time(results, ELF, q35, 0.82));
    let counted = |name: &str| results.get(name).and_then(|r| r.counted.as_ref());
    if let (Some(ours), Some(theirs)) = (counted(ELF), counted(microvm)) {
        all.extend(counts(ours, theirs));
    }
    all.extend(time(results, SANDBOX, ELF, 1.02));
    // A packed kernel costs nothing once it has been unpacked; and no less than nothing.
    all.extend(time(results, LZ4, ELF, 1.01));
    all.extend(time(results, XZ, GENERIC, 1.01));
    all
}

fn time(results: &Results, ours: &str, theirs: &str, limit: f64) -> Option<Verdict> {
    let share = ratio(results.get(ours)?.marker(), results.get(theirs)?.marker());
    let what = format!("exec to marker, {ours} / {theirs}");
    Some(Verdict { what, measured: format!("{share:.4}"), limit: limit.to_string(), held: share <= limit })
}

fn counts(ours: &Counted, theirs: &Counted) -> [Verdict; 5] {
    let sum = |map: &std::collections::BTreeMap<String, u64>| map.values().sum::<u64>();
    let share = |what: &str, a: u64, b: u64, limit: f64| Verdict {
        what: format!("{what}, kiwi / QEMU microvm"),
        measured: format!("{:.3}", ratio(a, b)),
        limit: limit.to_string(),
        held: ratio(a, b) <= limit,
    };
    let most = |what: &str, n: u64, limit: u64| Verdict {
        what: what.to_owned(),
        measured: n.to_string(),
        limit: limit.to_string(),
        held: n <= limit,
    };
    [
        share("VM exits", sum(&ours.exits), sum(&theirs.exits), 0.6),
        share("returns to userspace", sum(&ours.returns), sum(&theirs.returns), 0.3),
        most("resident memory beside the guest's, KiB", ours.memory.resident, RESIDENT),
        most("anonymous memory beside the guest's, KiB", ours.memory.anonymous, ANONYMOUS),
        Verdict {
            what: "exec to the first guest entry, M instructions".to_owned(),
            measured: millions(ours.first_entry),
            limit: millions(FIRST_ENTRY),
            held: ours.first_entry <= FIRST_ENTRY,
        },
    ]
}
