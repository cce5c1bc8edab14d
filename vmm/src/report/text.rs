//! The report as a table for a terminal, at most 100 columns wide.

use std::fmt::Write;
use std::time::Duration;

use super::{Exits, Kind, Report, Span};

/// The whole table.
pub(super) fn draw(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", headline(report));
    let kinds: String = Kind::ALL.iter().map(|kind| format!("{:>6}", kind.short)).collect();
    let _ = writeln!(out, "{:<29}{:>9}{:>9}{:>7}{kinds}{:>8}", "", "at", "took", "exits", "to vmm");
    for span in report.spans() {
        line(&mut out, &span);
    }
    let _ = writeln!(out, "\nend: {}", report.end);
    out
}

fn line(out: &mut String, span: &Span) {
    let at = time(span.from + span.took);
    let kinds: String = span.exits.by_kind.iter().map(|n| format!("{n:>6}")).collect();
    let Exits { total, to_userspace, .. } = span.exits;
    let name = span.work();
    let _ = writeln!(out, "{name:<29}{at:>9}{:>9}{total:>7}{kinds}{to_userspace:>8}", time(span.took));
}

/// The boot in one line.
pub(super) fn headline(report: &Report) -> String {
    let mut parts = Vec::new();
    if let Some(reached) = report.measured() {
        let exits = Exits::of(&reached.counters);
        parts.push(format!("{} from exec until {}", time(reached.at), reached.milestone.event()));
        parts.push(format!("{} VM exits, {} of them to vmm", exits.total, exits.to_userspace));
    }
    parts.push(format!("{} copied", bytes(report.copied)));
    if let Some(beside) = report.beside {
        let (resident, anonymous) = (beside.resident_kib, beside.anonymous_kib);
        parts.push(format!("{resident} KiB beside the guest's memory ({anonymous} anonymous)"));
    }
    parts.join(" · ")
}

/// A time for people: "850 µs", "12.3 ms", "1.234 s".
pub(super) fn time(time: Duration) -> String {
    match time.as_micros() {
        us @ 0..1000 => format!("{us} µs"),
        us @ 1000..1_000_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        us => format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1000),
    }
}

/// A number of bytes for people.
pub(super) fn bytes(number: u64) -> String {
    match number {
        0..10_240 => format!("{number} B"),
        10_240..10_485_760 => format!("{} KiB", number >> 10),
        _ => format!("{}.{} MiB", number >> 20, ((number % (1 << 20)) * 10) >> 20),
    }
}
