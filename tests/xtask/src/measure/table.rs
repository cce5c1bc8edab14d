//! Results as a person reads them.

use std::collections::BTreeMap;

use benches::{Counted, Line, Timed};

use crate::bed::Clock;

/// All that was measured of one subject.
#[derive(Debug, Default)]
pub(super) struct Result {
    pub(super) timed: Vec<Timed>,
    pub(super) counted: Option<Counted>,
}

impl Result {
    /// The median time to the marker, in nanoseconds.
    pub(super) fn marker(&self) -> u64 {
        let mut all: Vec<u64> = self.timed.iter().map(|t| t.marker).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or(0)
    }

    /// How far the times lie apart, as a share of the median.
    fn spread(&self) -> f64 {
        let times = || self.timed.iter().map(|t| t.marker);
        let apart = times().max().unwrap_or(0) - times().min().unwrap_or(0);
        ratio(apart, self.marker())
    }
}

/// Results by subject, in the order in which they were measured.
pub(super) struct Results(Vec<(String, Result)>);

impl Results {
    pub(super) fn of(lines: Vec<Line>) -> Self {
        let mut results = Self(Vec::new());
        for line in lines {
            match line {
                Line::Timed { round: 0, .. } => {}
                Line::Timed { subject, timed, .. } => results.entry(subject).timed.push(timed),
                Line::Counted { subject, counted } => results.entry(subject).counted = Some(counted),
            }
        }
        results
    }

    fn entry(&mut self, subject: String) -> &mut Result {
        let at = self.0.iter().position(|(name, _)| *name == subject).unwrap_or_else(|| {
            self.0.push((subject, Result::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    pub(super) fn get(&self, subject: &str) -> Option<&Result> {
        self.0.iter().find(|(name, _)| name == subject).map(|(_, result)| result)
    }

    /// The table of instructions, exits and memory.
    pub(super) fn costs(&self) -> String {
        let mut text = "| | exec to marker, M instructions | spread | exec to first entry, M | VM exits | to \
                        userspace | memory beside the guest's, KiB (anonymous) |\n|---|---|---|---|---|---|---|\n"
            .to_owned();
        for (name, result) in &self.0 {
            text += &format!("| {name} | {} | {:.3}% ", millions(result.marker()), 100.0 * result.spread());
            text += &result.counted.as_ref().map_or_else(|| "|".to_owned(), columns);
            text += "\n";
        }
        text
    }

    /// The table of wall times.
    pub(super) fn walls(&self) -> String {
        let mut text = "\n| | wall median in the bed, s | spread |\n|---|---|---|\n".to_owned();
        for (name, result) in &self.0 {
            text += &format!("| {name} | {} | {:.0}% |\n", seconds(result.marker()), 100.0 * result.spread());
        }
        text
    }

    /// What the exits are, and which ports and registers take the guest out.
    pub(super) fn explanation(&self) -> String {
        let counted = self.0.iter().filter_map(|(name, result)| Some((name, result.counted.as_ref()?)));
        counted.map(|(name, counted)| explain(name, counted)).collect()
    }
}

fn columns(counted: &Counted) -> String {
    format!(
        "| {} | {} | {} | {} ({}) |",
        millions(counted.first_entry),
        counted.exits.values().sum::<u64>(),
        counted.returns.values().sum::<u64>(),
        counted.memory.resident,
        counted.memory.anonymous
    )
}

fn explain(name: &str, counted: &Counted) -> String {
    let most = |map: &BTreeMap<String, u64>| {
        let mut all: Vec<_> = map.iter().collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        all.iter().take(80).map(|(what, n)| format!("{what} {n}")).collect::<Vec<_>>().join(", ")
    };
    format!(
        "\n{name}\n  exits: {}\n  returns: {}\n  accesses: {}\n",
        most(&counted.exits),
        most(&counted.returns),
        most(&counted.accesses)
    )
}

/// Says that a boot is done.
pub(super) fn progress(line: &Line, clock: Clock) {
    match (line, clock) {
        (Line::Timed { subject, round, timed }, Clock::Instructions) => {
            eprintln!("round {round}: {subject}: {} M instructions to the marker", millions(timed.marker));
        }
        (Line::Timed { subject, round, timed }, Clock::Wall) => {
            eprintln!("round {round}: {subject}: {} s to the marker", seconds(timed.marker));
        }
        (Line::Counted { subject, counted }, _) => {
            eprintln!("counted: {subject}: {} exits", counted.exits.values().sum::<u64>());
        }
    }
}

pub(super) fn ratio(a: u64, b: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // counts far below 2^52
    if b == 0 { f64::INFINITY } else { a as f64 / b as f64 }
}

pub(super) fn millions(n: u64) -> String {
    format!("{:.1}", ratio(n, 1_000_000))
}

fn seconds(n: u64) -> String {
    format!("{:.2}", ratio(n, 1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed(subject: &str, round: u32, marker: u64) -> Line {
        Line::Timed { subject: subject.to_owned(), round, timed: Timed { marker, end: marker } }
    }

    #[test]
    fn the_first_round_is_discarded_and_the_median_taken() {
        let lines = vec![timed("a", 0, 999), timed("a", 1, 30), timed("a", 2, 10), timed("a", 3, 20)];
        let results = Results::of(lines);
        assert_eq!(results.get("a").map(Result::marker), Some(20));
        assert!((results.get("a").map_or(0.0, Result::spread) - 1.0).abs() < 1e-9);
    }
}
