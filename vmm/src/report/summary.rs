//! A boot on paper: its milestones, and the spans between them.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Beside, Counters, Exits, Milestone};

/// A milestone that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Which one.
    pub milestone: Milestone,
    /// When, since exec.
    pub at: Duration,
    /// KVM's counters then.
    pub counters: Counters,
}

/// All that is known of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How the machine ended.
    pub end: String,
    /// The milestones, in the order in which they were reached.
    pub reached: Vec<Reached>,
    /// Bytes copied from files into guest memory.
    pub copied: u64,
    /// Resident memory beside the guest's at the end.
    pub beside: Option<Beside>,
}

/// The time between two milestones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The milestone it began with.
    pub since: Milestone,
    /// The milestone it led to.
    pub to: Milestone,
    /// When it began, since exec.
    pub from: Duration,
    /// How long it took.
    pub took: Duration,
    /// VM exits in it.
    pub exits: Exits,
}

impl Span {
    /// What the time went to, in words.
    pub fn work(&self) -> &'static str {
        self.to.work_since(self.since)
    }
}

impl Report {
    /// The spans between the milestones, in order of time.
    pub fn spans(&self) -> Vec<Span> {
        let mut reached: Vec<&Reached> = self.reached.iter().collect();
        reached.sort_by_key(|r| r.at);
        let pairs = reached.iter().zip(reached.iter().skip(1));
        pairs.map(|(before, after)| span(before, after)).collect()
    }

    /// The milestone up to which a boot is measured: the marker, else the end.
    pub fn measured(&self) -> Option<&Reached> {
        let find = |milestone| self.reached.iter().find(|r| r.milestone == milestone);
        find(Milestone::Marker).or_else(|| find(Milestone::End))
    }

    /// The report as a JSON document (its schema is in docs/command-line.md).
    pub fn json(&self) -> String {
        let milestones: Vec<Value> = self.reached.iter().map(milestone).collect();
        let spans: Vec<Value> = self.spans().iter().map(span_value).collect();
        let document = json!({
            "format": 1,
            "end": self.end,
            "milestones": milestones,
            "spans": spans,
            "bytes_copied": self.copied,
            "memory_beside_guest": self.beside,
        });
        format!("{document:#}\n")
    }
}

fn span(before: &Reached, after: &Reached) -> Span {
    Span {
        since: before.milestone,
        to: after.milestone,
        from: before.at,
        took: after.at.saturating_sub(before.at),
        exits: Exits::of(&after.counters).since(&Exits::of(&before.counters)),
    }
}

fn milestone(reached: &Reached) -> Value {
    let counters: Counters =
        reached.counters.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect();
    json!({ "name": reached.milestone, "at_us": micros(reached.at), "counters": counters })
}

fn span_value(span: &Span) -> Value {
    json!({
        "to": span.to, "work": span.work(), "from_us": micros(span.from), "took_us": micros(span.took),
        "exits": span.exits,
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
