//! The manual, docs/command-line.md, says what the program does.

use std::collections::BTreeSet;

use vmm::report::doctor::Class;
use vmm::report::{Exits, Milestone};
use vmm::{VmConfig, exit::status};

use super::flags::names;

const MANUAL: &str = include_str!("../../../docs/command-line.md");
const README: &str = include_str!("../../../README.md");

/// The lines of the manual's section under `heading`.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    section_of(MANUAL, heading)
}

fn section_of(page: &'static str, heading: &str) -> impl Iterator<Item = &'static str> {
    page.lines().skip_while(move |l| *l != heading).skip(1).take_while(|l| !l.starts_with("## "))
}

/// The first cells of a section's table rows, without their backticks.
fn first_cells(heading: &str) -> BTreeSet<&'static str> {
    let cell = |l: &'static str| l.strip_prefix("| ")?.split(" |").next();
    section(heading).filter_map(cell).map(|c| c.trim_matches('`')).collect()
}

#[test]
fn every_flag_has_a_heading_and_every_heading_is_a_flag() {
    let headings: BTreeSet<_> = section("## Flags").filter_map(|l| l.strip_prefix("### ")).collect();
    let described: BTreeSet<_> =
        headings.iter().filter_map(|h| h.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(described, names().into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn the_exit_statuses_of_the_source_are_those_of_the_table() {
    let value =
        |line: &'static str| line.trim().strip_prefix("pub const ")?.strip_suffix(';')?.split(" = ").nth(1);
    let declared: BTreeSet<_> = include_str!("../exit.rs").lines().filter_map(value).collect();
    assert!(declared.contains(status::SECCOMP.to_string().as_str()));
    let listed = first_cells("## Exit status");
    assert_eq!(listed, declared.into_iter().chain(["status", "128+n"]).collect());
}

#[test]
fn the_readme_has_the_manuals_exit_statuses_word_for_word() {
    let rows = |page| {
        let rows = section_of(page, "## Exit status").filter(|line| line.starts_with("| "));
        rows.map(|row| row.split(" | ").take(2).map(|cell| cell.trim_matches(['|', ' '])).collect()).collect()
    };
    let (readme, manual): (Vec<Vec<_>>, Vec<Vec<_>>) = (rows(README), rows(MANUAL));
    assert_eq!(readme, manual);
    assert!(readme.len() > 10, "a heading and the statuses");
}

#[test]
fn every_class_of_the_doctor_is_in_the_table() {
    let listed = first_cells("## The boot doctor");
    assert!(Class::ALL.iter().all(|class| listed.contains(class.name())));
    assert_eq!(listed.len(), Class::ALL.len() + 1, "and a heading");
}

#[test]
fn every_key_of_the_configuration_is_in_the_table() {
    let listed = first_cells("## The configuration file");
    let config = serde_json::to_value(VmConfig::default()).unwrap();
    let mut keys = BTreeSet::new();
    for (key, value) in config.as_object().unwrap() {
        match value.as_object() {
            Some(part) => keys.extend(part.keys().map(|sub| format!("{key}.{sub}"))),
            None => assert!(keys.insert(key.clone())),
        }
    }
    assert_eq!(listed, keys.iter().map(String::as_str).chain(["key"]).collect());
}

#[test]
fn the_example_in_the_manual_is_a_configuration() {
    let text = MANUAL.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let config: VmConfig = serde_json::from_str(text).unwrap();
    assert_eq!(config.memory.size, 2 << 30);
}

#[test]
fn every_milestone_and_every_kind_of_exit_is_named() {
    let listed = first_cells("## The boot report");
    for milestone in Milestone::ALL {
        let name = serde_json::to_value(milestone).unwrap();
        assert!(listed.contains(name.as_str().unwrap()), "{name}");
    }
    let exits = serde_json::to_value(Exits::default()).unwrap();
    assert!(exits.as_object().unwrap().keys().all(|kind| MANUAL.contains(&format!("`{kind}`"))));
}
