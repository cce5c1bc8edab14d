use std::time::Duration;

use super::*;

fn counters(exits: u64, io: u64, mmio: u64, faults: u64) -> Counters {
    [("exits", exits), ("io_exits", io), ("mmio_exits", mmio), ("pf_taken", faults), ("irq_exits", 3)]
        .into_iter()
        .chain([("returns_to_userspace", io + mmio)])
        .map(|(name, n)| (name.to_owned(), n))
        .collect()
}

/// A boot as the test bed measured it, more or less.
fn report() -> Report {
    let at = |milestone, us, counters| Reached { milestone, at: Duration::from_micros(us), counters };
    let none = Counters::new;
    Report {
        end: "the guest powered off".to_owned(),
        reached: vec![
            at(Milestone::Exec, 0, none()),
            at(Milestone::Parsed, 390, none()),
            at(Milestone::KernelLoaded, 18_800, none()),
            at(Milestone::VmCreated, 19_800, none()),
            at(Milestone::VcpusReady, 20_960, none()),
            at(Milestone::FirstEntry, 21_300, none()),
            at(Milestone::FirstConsoleByte, 164_000, counters(612, 31, 4, 402)),
            at(Milestone::InitEntered, 381_000, counters(1_430, 120, 208, 640)),
            at(Milestone::ModulesLoaded, 452_300, counters(2_010, 133, 460, 720)),
            at(Milestone::Marker, 455_000, counters(2_034, 140, 462, 721)),
            at(Milestone::End, 512_700, counters(2_390, 290, 470, 733)),
        ],
        copied: 46_311_000,
        beside: Some(Beside { resident_kib: 3_280, anonymous_kib: 312 }),
    }
}

#[test]
fn spans_lie_between_milestones_and_count_only_their_own_exits() {
    let spans = report().spans();
    assert_eq!(spans.len(), 10);
    let init = spans.iter().find(|s| s.to == Milestone::InitEntered).unwrap();
    assert_eq!((init.from, init.took), (Duration::from_millis(164), Duration::from_millis(217)));
    assert_eq!(init.exits.total, 818);
    assert_eq!(init.exits.by_kind, [89, 204, 238, 0, 0, 287]);
}

#[test]
fn a_console_that_speaks_late_takes_its_place_by_time() {
    let mut report = report();
    for reached in &mut report.reached {
        if reached.milestone == Milestone::FirstConsoleByte {
            reached.at = Duration::from_micros(460_000);
        }
    }
    let order: Vec<Milestone> = report.spans().iter().map(|s| s.to).collect();
    assert_eq!(order.get(8..), Some([Milestone::FirstConsoleByte, Milestone::End].as_slice()));
}

#[test]
fn the_json_document_has_the_documented_keys() {
    let document: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
    assert_eq!(document["format"], 1);
    assert_eq!(document["milestones"][9]["name"], "marker");
    assert_eq!(document["milestones"][9]["at_us"], 455_000);
    assert_eq!(document["milestones"][9]["counters"]["exits"], 2_034);
    assert_eq!(document["spans"][6]["to"], "init_entered");
    assert_eq!(document["spans"][6]["took_us"], 217_000);
    assert_eq!(document["spans"][6]["exits"]["page_fault"], 238);
    assert_eq!(document["bytes_copied"], 46_311_000);
    assert_eq!(document["memory_beside_guest"]["anonymous_kib"], 312);
}

#[test]
fn the_table_has_a_line_a_span_under_one_headline() {
    let table = text::draw(&report());
    assert!(table.starts_with(
        "455.0 ms from exec until init runs its command · 2034 VM exits, 602 of them to vmm · 44.1 MiB copied"
    ));
    assert_eq!(table.lines().count(), 2 + 1 + 10 + 2);
    let columns: Vec<usize> = table.lines().skip(2).take(11).map(|l| l.chars().count()).collect();
    assert!(columns.iter().all(|c| *c == columns[0]), "{table}");
}

#[test]
fn the_picture_is_well_formed_and_holds_every_span() {
    let svg = svg::draw(&report());
    for span in report().spans() {
        assert!(svg.contains(span.work()));
    }
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("href") && !svg.contains("<script") && !svg.contains("@import"));
}

#[test]
fn words_in_the_picture_are_escaped() {
    let svg = svg::draw(&Report { end: "a < b & c".to_owned(), ..report() });
    assert!(svg.contains("a &lt; b &amp; c"));
}

#[test]
fn a_boot_that_ended_at_once_still_draws() {
    let empty = Report { end: String::new(), reached: vec![], copied: 0, beside: None };
    assert!(text::draw(&empty).contains("0 B copied"));
    assert!(svg::draw(&empty).ends_with("</svg>\n"));
}

#[test]
fn a_recorder_that_is_off_knows_only_how_far_it_came() {
    let recorder = Recorder::off();
    assert_eq!(recorder.latest(), Milestone::Exec);
    recorder.reach(Milestone::FirstEntry);
    recorder.reach(Milestone::Parsed);
    assert_eq!(recorder.latest(), Milestone::FirstEntry);
    recorder.count_with(|| panic!("nothing is counted"));
    assert_eq!(recorder.finish(&[], "x"), None);
}

#[test]
fn a_recorder_keeps_the_first_time_and_the_counters_of_each_milestone() {
    let recorder = Recorder::start();
    recorder.reach(Milestone::Parsed);
    recorder.count_with(|| counters(7, 1, 1, 1));
    let other = recorder.clone();
    std::thread::spawn(move || other.reach(Milestone::FirstEntry)).join().unwrap();
    recorder.count_with(|| counters(9, 1, 1, 1));
    recorder.reach(Milestone::FirstEntry);
    recorder.add_copied(5);
    let report = recorder.finish(&[], "the guest powered off").unwrap();
    let names: Vec<Milestone> = report.reached.iter().map(|r| r.milestone).collect();
    assert_eq!(names, [Milestone::Exec, Milestone::Parsed, Milestone::FirstEntry, Milestone::End]);
    assert_eq!(report.reached[2].counters["exits"], 7);
    assert!(report.reached.is_sorted_by_key(|r| r.at));
    assert_eq!(report.copied, 5);
}

#[test]
fn reports_go_to_their_files_or_say_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("boot.svg");
    deliver(&Request::Svg(path.clone()), &report()).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().contains("Boot report"));
    let missing = Request::JsonFile(dir.path().join("none/boot.json"));
    assert!(deliver(&missing, &report()).unwrap_err().to_string().contains("cannot be written"));
}

#[test]
fn numbers_have_units_for_people() {
    assert_eq!(text::time(Duration::from_micros(850)), "850 µs");
    assert_eq!(text::time(Duration::from_micros(12_345)), "12.3 ms");
    assert_eq!(text::time(Duration::from_micros(1_234_567)), "1.234 s");
    assert_eq!(text::bytes(512), "512 B");
    assert_eq!(text::bytes(64 << 10), "64 KiB");
    assert_eq!(text::bytes(46_311_000), "44.1 MiB");
}

#[test]
fn a_long_command_does_not_squeeze_the_boot_out_of_the_picture() {
    let mut long = report();
    long.reached.last_mut().unwrap().at = Duration::from_secs(3600);
    let svg = svg::draw(&long);
    assert!(svg.contains("3599.545 s"));
    assert!(svg.contains(">100 ms</text>"), "the axis still has the boot's scale");
}

#[test]
fn an_init_that_sets_only_the_last_mark_is_not_blamed_for_the_kernels_time() {
    let mut report = report();
    report.reached.retain(|r| !matches!(r.milestone, Milestone::InitEntered | Milestone::ModulesLoaded));
    let spans = report.spans();
    assert_eq!(spans.iter().find(|s| s.to == Milestone::Marker).unwrap().work(), "kernel and init");
}

#[test]
fn what_prints_first_on_a_quiet_boot_is_named_by_when_it_does() {
    let name = |before| Milestone::FirstConsoleByte.work_since(before);
    assert_eq!(name(Milestone::FirstEntry), "kernel, until it prints");
    assert_eq!(name(Milestone::ModulesLoaded), "init, until it prints");
    assert_eq!(name(Milestone::Marker), "the command, until it prints");
}
