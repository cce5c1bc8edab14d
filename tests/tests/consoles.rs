//! Consoles, reports and logs of a machine whose threads are confined, as they are unless told otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use tests::{DEADLINE, Outcome, TestVm, until, wait};

/// Says that it is there, and then what it was told.
const ECHO: [&str; 3] = ["sh", "-c", "echo here we are; read word; echo got $word; sleep 1000"];

fn end(child: Child) -> Outcome {
    let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    wait(child)
}

/// Reads until `words` have come.
fn expect(from: &mut impl Read, words: &str) {
    let (mut seen, mut bytes) = (String::new(), [0; 1024]);
    while !seen.contains(words) {
        let n = from.read(&mut bytes).expect("the console can be read");
        assert!(n > 0, "ended before {words:?}: {seen}");
        seen += &String::from_utf8_lossy(bytes.get(..n).unwrap_or_default());
    }
}

#[test]
fn a_socket_serves_one_client_after_the_other_and_goes_with_the_machine() {
    let vm = TestVm::boot().command(&ECHO);
    let path = vm.scratch().join("serial.sock");
    let vm = vm.serial(&format!("socket={}", path.display()));
    let child = vm.start();
    until("the socket is there", || path.exists());
    let connect = || {
        // The path is there from the bind on, and takes clients from the listen on.
        let mut client = None;
        until("the socket takes a client", || {
            client = UnixStream::connect(&path).ok();
            client.is_some()
        });
        let client = client.expect("until() said so");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client
    };
    let mut first = connect();
    expect(&mut first, "here we are");
    drop(first);
    let mut second = connect();
    second.write_all(b"hello\n").expect("written");
    expect(&mut second, "got hello");
    end(child).assert_status(143);
    assert!(!path.exists(), "the socket is left behind");
}

#[test]
fn a_pseudo_terminal_is_named_and_works_both_ways() {
    let vm = TestVm::boot().serial("pty").command(&ECHO);
    let log = vm.scratch().join("log");
    let vm = vm.flag("--log-file", log.to_str().expect("UTF-8"));
    let child = vm.start();
    let path = || {
        let log = fs::read_to_string(&log).ok()?;
        Some(log.split_once("a console of the guest is at ")?.1.lines().next()?.to_owned())
    };
    until("the log names the terminal", || path().is_some());
    let mut terminal =
        OpenOptions::new().read(true).write(true).open(path().expect("a path")).expect("opens");
    expect(&mut terminal, "here we are");
    terminal.write_all(b"hello\n").expect("written");
    expect(&mut terminal, "got hello");
    end(child).assert_status(143);
}

#[test]
fn a_log_is_appended_to() {
    let dir = tests::scratch();
    let log = dir.path().join("log");
    fs::write(&log, "kept\n").expect("written");
    let vm = TestVm::boot().command(&["true"]).flag("--log-level", "trace");
    vm.flag("--log-file", log.to_str().expect("UTF-8")).run().assert_status(0);
    let text = fs::read_to_string(&log).expect("the log");
    assert!(text.starts_with("kept\n") && text.contains("the machine ended"), "{text}");
}

#[test]
fn reports_are_told_and_written() {
    let text = TestVm::boot().command(&["true"]).flag("--report", "text").run();
    text.assert_status(0);
    assert!(text.errors.contains("VM exits") && text.errors.contains("beside the guest"), "{text}");
    let json = TestVm::boot().command(&["true"]).flag("--report", "json").run();
    json.assert_status(0);
    let report: serde_json::Value = serde_json::from_str(&json.errors).expect("a JSON document");
    let exits =
        report["spans"].as_array().expect("spans").iter().filter_map(|s| s["exits"]["total"].as_u64());
    assert!(exits.sum::<u64>() > 0, "{json}");
    let dir = tests::scratch();
    for (name, begins) in [("boot.svg", "<svg"), ("boot.json", "{")] {
        let path = dir.path().join(name);
        let vm = TestVm::boot().command(&["true"]).flag("--report", path.to_str().expect("UTF-8"));
        vm.run().assert_status(0);
        let mut head = [0; 4];
        let n = File::open(&path).and_then(|mut file| file.read(&mut head)).expect("the report's file");
        assert!(String::from_utf8_lossy(&head[..n]).starts_with(begins), "{name}");
    }
}

#[test]
fn a_guest_that_hangs_is_ended_for_its_silence() {
    // It says what it does until it panics: a machine that is slow is not taken for one that is silent before there is a
    // cause to tell.
    let vm =
        TestVm::boot().initrd(None).flag("--cmdline", "console=ttyS0 loglevel=6 panic=0 8250.nr_uarts=1");
    let outcome = vm.flag("--silence", "15").run();
    outcome.assert_status(83);
    assert!(outcome.errors.contains("likely cause:"), "{outcome}");
}
