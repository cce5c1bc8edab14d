use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use vmm::config::{ConsoleTarget, RngConfig, SeccompMode, Transport};

use super::*;

fn understood(words: &[&str]) -> Run {
    match parse(std::iter::once("vmm").chain(words.iter().copied()).map(OsString::from)) {
        Ok(Invocation::Run(run)) => *run,
        other => panic!("{words:?} gave {other:?}"),
    }
}

fn refused(words: &[&str]) -> String {
    match parse(std::iter::once("vmm").chain(words.iter().copied()).map(OsString::from)) {
        Err(e) => e.to_string(),
        Ok(other) => panic!("{words:?} gave {other:?}"),
    }
}

#[test]
fn every_flag_lands_in_its_place() {
    let run = understood(&[
        "--kernel",
        "/k",
        "--initrd",
        "/i",
        "--cmdline",
        "-- quiet",
        "--cpus",
        "boot=4,max=4",
        "--memory",
        "size=2G,shared=on,hugepages=on",
        "--serial",
        "tty",
        "--console",
        "socket=/run/c",
        "--rng",
        "on",
        "--disk",
        "/a.img",
        "--disk",
        "path=/b.img,readonly=on",
        "--balloon",
        "size=64M",
        "--transport",
        "mmio",
        "--seccomp",
        "log",
        "--silence",
        "20",
        "--guest-status",
        "--dry-run",
        "--report",
        "boot.svg",
        "--log-file",
        "/tmp/log",
        "--log-level",
        "debug",
    ]);
    let config = &run.config;
    assert_eq!(config.boot.kernel, PathBuf::from("/k"));
    assert_eq!(config.boot.initrd, Some("/i".into()));
    assert_eq!(config.boot.cmdline.as_deref(), Some("-- quiet"));
    assert_eq!((config.cpus.boot, config.cpus.max), (4, Some(4)));
    assert_eq!((config.memory.size, config.memory.shared, config.memory.hugepages), (2 << 30, true, true));
    assert_eq!(config.serial, ConsoleTarget::Tty);
    assert_eq!(config.console, Some(ConsoleTarget::Socket("/run/c".into())));
    assert_eq!(config.rng, Some(RngConfig::default()));
    assert_eq!(config.disks.len(), 2);
    assert_eq!(config.disks[1].path, Some("/b.img".into()));
    assert_eq!(config.balloon.map(|b| b.size), Some(64 << 20));
    assert_eq!(config.transport, Transport::Mmio);
    assert_eq!(config.seccomp, SeccompMode::Log);
    assert_eq!(config.silence, 20);
    assert!(run.guest_status && run.dry_run);
    assert_eq!(run.report, Request::Svg("boot.svg".into()));
    assert_eq!(run.log, LogOptions { file: Some("/tmp/log".into()), level: LevelFilter::DEBUG });
}

#[test]
fn a_value_may_stand_behind_an_equals_sign() {
    assert_eq!(understood(&["--memory=1G"]).config.memory.size, 1 << 30);
    assert_eq!(understood(&["--serial=file=/a"]).config.serial, ConsoleTarget::File("/a".into()));
}

#[test]
fn nothing_given_is_the_default_machine() {
    let run = understood(&[]);
    assert_eq!(run.config, VmConfig::default());
    assert_eq!(run.report, Request::Off);
    assert!(!run.guest_status && !run.dry_run);
}

#[test]
fn flags_override_the_file_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm.json");
    std::fs::write(
        &file,
        r#"{"boot": {"kernel": "/k", "cmdline": "a"}, "memory": {"size": "1G", "shared": true},
            "cpus": {"boot": 2}, "rng": {}}"#,
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let run = understood(&["--config", file, "--memory", "2G", "--cmdline", "b", "--rng", "off"]);
    assert_eq!(run.config.boot.kernel, PathBuf::from("/k"));
    assert_eq!(run.config.boot.cmdline.as_deref(), Some("b"));
    assert_eq!((run.config.memory.size, run.config.memory.shared), (2 << 30, true));
    assert_eq!(run.config.cpus.boot, 2);
    assert_eq!(run.config.rng, None);
}

#[test]
fn an_unknown_flag_names_the_nearest_one() {
    assert_eq!(refused(&["--kernl", "/k"]), "there is no flag --kernl; did you mean --kernel?");
    assert_eq!(refused(&["--mem=1G"]), "there is no flag --mem; did you mean --memory?");
    assert_eq!(refused(&["--zebra"]), "there is no flag --zebra; --help lists those there are");
    assert!(refused(&["-k", "/k"]).starts_with("there is no flag -k: flags are long here"));
}

#[test]
fn a_word_without_a_flag_is_refused() {
    assert_eq!(
        refused(&["/boot/vmlinuz"]),
        "\"/boot/vmlinuz\" stands alone: everything has a flag here, as in --kernel PATH; --help lists them"
    );
    assert!(refused(&["--", "x"]).starts_with("\"x\" stands alone"));
}

#[test]
fn a_flag_given_twice_is_refused() {
    assert_eq!(refused(&["--kernel", "a", "--kernel", "b"]), "--kernel is given twice; give it once");
    assert_eq!(refused(&["--dry-run", "--dry-run"]), "--dry-run is given twice; give it once");
}

#[test]
fn a_flag_without_its_value_is_refused() {
    assert_eq!(refused(&["--kernel"]), "--kernel <PATH> needs its value behind it");
    assert_eq!(refused(&["--memory", "--cpus", "2"]), "--memory <SIZE> needs its value behind it");
    assert_eq!(refused(&["--dry-run=yes"]), "--dry-run takes no value");
}

#[test]
fn words_of_other_flags_name_the_nearest_too() {
    assert_eq!(refused(&["--log-level", "wran"]), {
        "--log-level does not know \"wran\"; did you mean \"warn\"?"
    });
    assert!(refused(&["--report", "html"]).contains("off, text, json"));
    assert!(refused(&["--silence", "soon"]).contains("a whole number of seconds"));
    assert!(refused(&["--silence", "-1"]).contains("silence"));
}

#[test]
fn paths_may_be_any_bytes_and_texts_may_not() {
    let bytes = || OsString::from_vec(b"/k\xff".to_vec());
    let words = ["vmm".into(), "--kernel".into(), bytes()];
    assert!(matches!(parse(words), Ok(Invocation::Run(_))));
    let e = parse(["vmm".into(), "--cmdline".into(), bytes()]).unwrap_err().to_string();
    assert_eq!(e, "a value is not UTF-8 text; only paths may be other bytes");
}

#[test]
fn help_and_version_are_printed() {
    for (flag, beginning) in [("--help", "Boots a Linux kernel"), ("--version", "vmm 0.")] {
        match parse([OsString::from("vmm"), flag.into()]) {
            Ok(Invocation::Print(text)) => assert!(text.starts_with(beginning), "{text}"),
            other => panic!("{flag} gave {other:?}"),
        }
    }
}

#[test]
fn the_table_of_flags_is_consistent() {
    flags().debug_assert();
}

proptest::proptest! {
    #[test]
    fn any_words_are_understood_or_refused(words in proptest::collection::vec("(--(kernel|cpus|memory|serial|rng|log-level)=?)?.{0,12}", 0..5)) {
        // A file that a random word might name is not what this is about.
        if words.iter().all(|w| !w.contains("conf")) {
            let _ = parse(std::iter::once("vmm".to_owned()).chain(words).map(OsString::from));
        }
    }
}
