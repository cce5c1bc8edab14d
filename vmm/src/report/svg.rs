//! The report as a picture: a row a span, its place in time, its VM exits by kind.
//!
//! Plain SVG 1.1: no scripts, no external fonts or styles, so that any viewer and any page shows it.

use std::fmt::Write;
use std::time::Duration;

use super::text::{headline, time};
use super::{Kind, Milestone, Report, Span};

const WIDTH: u32 = 1100;
const ROW: u32 = 28;
/// Where the first row's top is.
const TOP: u32 = 128;
/// Columns: end of labels, timeline, its "took" numbers, exits, their numbers.
const LABELS: u32 = 244;
const TIMELINE: (u32, u32) = (260, 640);
const TOOK: u32 = 724;
const EXITS: (u32, u32) = (752, 1010);
const COUNT: u32 = 1076;

/// Colours of the kinds of exits, told apart by colour-blind people too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#999999"];
/// Time in this process before the guest runs, and time of the guest.
const VMM: &str = "#0072b2";
const GUEST: &str = "#44546a";

/// The whole document.
pub(super) fn draw(report: &Report) -> String {
    let spans = report.spans();
    let rows = u32::try_from(spans.len()).unwrap_or(0);
    let bottom = TOP + rows * ROW;
    let height = bottom + 120;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
    );
    heading(&mut out, report);
    for y in (TOP..bottom).step_by(2 * ROW as usize) {
        rect(&mut out, (16, y), (WIDTH - 32, ROW), "#f4f4f4");
    }
    axis(&mut out, whole(&spans), bottom);
    rows_of(&mut out, &spans);
    legend(&mut out, &spans, bottom + 56);
    out.push_str("</svg>\n");
    out
}

/// What the timeline shows. A command may run for days after a boot of a second: its bar is cut off.
fn whole(spans: &[Span]) -> Duration {
    let last = spans.last().map_or(Duration::ZERO, |last| last.from + last.took);
    let marker = spans.iter().find(|s| s.to == Milestone::Marker).map(|s| s.from + s.took);
    marker.map_or(last, |marker| last.min(marker * 6 / 5))
}

fn heading(out: &mut String, report: &Report) {
    text(out, (24, 36), "start", "font-size=\"20\" font-weight=\"bold\"", "Boot report");
    let line = headline(report);
    // Halves of the line, so that none runs over the edge.
    let parts: Vec<&str> = line.split(" · ").collect();
    let (first, second) = parts.split_at(parts.len().div_ceil(2));
    text(out, (24, 60), "start", "fill=\"#333333\"", &first.join(" · "));
    let rest = second.iter().copied().map(str::to_owned).chain([format!("end: {}", report.end)]);
    text(out, (24, 80), "start", "fill=\"#333333\"", &rest.collect::<Vec<_>>().join(" · "));
    let head = "font-weight=\"bold\" fill=\"#333333\"";
    text(out, (TIMELINE.0, TOP - 12), "start", head, "time since exec");
    text(out, (TOOK, TOP - 12), "end", head, "took");
    text(out, (EXITS.0, TOP - 12), "start", head, "VM exits by kind");
    text(out, (COUNT, TOP - 12), "end", head, "exits");
}

/// Grid lines at round times, with their labels under the last row.
fn axis(out: &mut String, whole: Duration, bottom: u32) {
    let step = round_step(whole);
    let mut at = Duration::ZERO;
    while at <= whole {
        let x = place(at, whole);
        let _ =
            writeln!(out, "<line x1=\"{x}\" y1=\"{TOP}\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#dddddd\"/>");
        text(out, (x, bottom + 18), "middle", "font-size=\"11\" fill=\"#555555\"", &round(at));
        at = at.saturating_add(step);
    }
}

/// 1, 2 or 5 times a power of ten microseconds, so that there are at most seven lines.
fn round_step(whole: Duration) -> Duration {
    let steps = (2..13).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let fits = |step: &u64| u128::from(*step) * 6 >= whole.as_micros();
    // The last resort draws no line but the first.
    Duration::from_micros(steps.into_iter().find(fits).unwrap_or(u64::MAX))
}

/// A grid line's time, without digits that say nothing.
fn round(time: Duration) -> String {
    let us = time.as_micros();
    match us {
        0 => "0".to_owned(),
        us if us < 1_000 => format!("{us} µs"),
        us if us % 1_000 != 0 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        us if us < 1_000_000 => format!("{} ms", us / 1_000),
        us => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
    }
}

/// The x of a time on the timeline.
fn place(at: Duration, total: Duration) -> u32 {
    let (left, right) = TIMELINE;
    left + scaled(at.as_micros(), total.as_micros(), right - left)
}

/// `part` of `whole`, as that part of `width`.
fn scaled(part: u128, whole: u128, width: u32) -> u32 {
    let scaled = (part * u128::from(width)).checked_div(whole).unwrap_or(0);
    u32::try_from(scaled).unwrap_or(width).min(width)
}

fn rows_of(out: &mut String, spans: &[Span]) {
    // The boot sets the scale, not what the command did after it.
    let boot = spans.iter().filter(|s| s.to < Milestone::End);
    let scale = Scale { whole: whole(spans), most: boot.map(|s| s.exits.total).max().unwrap_or(0) };
    for (span, y) in spans.iter().zip((TOP..).step_by(ROW as usize)) {
        row(out, span, y, &scale);
    }
}

/// What fills a column.
struct Scale {
    whole: Duration,
    most: u64,
}

fn row(out: &mut String, span: &Span, y: u32, scale: &Scale) {
    let base = y + 19;
    let in_guest = span.to > Milestone::FirstEntry;
    text(out, (LABELS, base), "end", "", span.work());
    let (from, to) = (place(span.from, scale.whole), place(span.from + span.took, scale.whole));
    // The shortest span still shows.
    rect(out, (from, y + 7), ((to - from).max(2), ROW - 14), if in_guest { GUEST } else { VMM });
    text(out, (TOOK, base), "end", "", &time(span.took));
    stack(out, span, y + 7, scale.most);
    let count = if in_guest { span.exits.total.to_string() } else { "–".to_owned() };
    text(out, (COUNT, base), "end", "", &count);
}

/// The kinds of exits side by side, cut off where the column ends.
fn stack(out: &mut String, span: &Span, y: u32, most: u64) {
    let (left, right) = EXITS;
    let (mut x, mut sum) = (left, 0);
    for (number, colour) in span.exits.by_kind.iter().zip(COLOURS) {
        sum += number;
        let end = left + scaled(u128::from(sum), u128::from(most), right - left);
        if end > x {
            rect(out, (x, y), (end - x, ROW - 14), colour);
            x = end;
        }
    }
}

/// What the colours mean, with each kind's number in the whole boot.
fn legend(out: &mut String, spans: &[Span], y: u32) {
    let small = "font-size=\"12\" fill=\"#333333\"";
    for (x, colour, words) in [(24, VMM, "vmm, before the guest runs"), (260, GUEST, "the guest runs")] {
        rect(out, (x, y - 11), (12, 12), colour);
        text(out, (x + 18, y), "start", small, words);
    }
    for (i, (kind, colour)) in Kind::ALL.iter().zip(COLOURS).enumerate() {
        let number: u64 = spans.iter().filter_map(|s| s.exits.by_kind.get(i)).sum();
        let x = 24 + u32::try_from(i).unwrap_or(0) * 176;
        rect(out, (x, y + 19), (12, 12), colour);
        text(out, (x + 18, y + 30), "start", small, &format!("{}: {number}", kind.label));
    }
}

fn rect(out: &mut String, (x, y): (u32, u32), (width, height): (u32, u32), colour: &str) {
    let _ =
        writeln!(out, "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{colour}\"/>");
}

fn text(out: &mut String, (x, y): (u32, u32), anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" {style}>{words}</text>");
}
