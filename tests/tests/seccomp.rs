//! Confinement: every thread of a machine has its filter, and a call on no list ends the process by name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use tests::{TestVm, Thread, threads, until, wait};

/// A machine whose guest runs a command that waits; its serial port goes to a file, so that there is a thread for it.
fn running(flags: &[(&str, &str)]) -> (TestVm, Child) {
    let vm = TestVm::boot().command(&["sh", "-c", "echo here we are; sleep 1000"]);
    let log = vm.scratch().join("console.txt");
    let vm = vm.serial(&format!("file={}", log.display()));
    let vm = flags.iter().fold(vm, |vm, (name, value)| vm.flag(name, value));
    let child = vm.start();
    until("the guest's command runs", || said(&log).contains("here we are"));
    (vm, child)
}

fn said(log: &PathBuf) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn end(child: Child) -> tests::Outcome {
    let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    wait(child)
}

/// The thread called `name`; the first thread has the program's.
fn thread(child: &Child, name: &str) -> Thread {
    let all = threads(child.id());
    all.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no thread {name} in {all:?}")).clone()
}

#[test]
fn every_thread_has_a_filter_unless_told_otherwise() {
    for (flags, mode) in [(&[][..], 2), (&[("--seccomp", "log")], 2), (&[("--seccomp", "off")], 0)] {
        let (_vm, child) = running(flags);
        let all = threads(child.id());
        let mut names: Vec<_> = all.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["serial", "vcpu0", "vmm"], "{flags:?}");
        assert!(all.iter().all(|t| t.seccomp() == mode), "{flags:?}: {all:?}");
        end(child).assert_status(143);
    }
}

/// A machine with every device there is, each at work.
fn with_all_devices(transport: &str) -> (TestVm, Child) {
    let script = "head -c 64 /dev/hwrng | wc -c; echo here we are; sleep 1000";
    let vm = TestVm::boot().command(&["sh", "-c", script]).serial("pty");
    let log = vm.scratch().join("console.txt");
    let vm = vm.flag("--rng", "on").flag("--console", &format!("file={}", log.display()));
    let vm = vm.flag("--transport", transport).flag("--log-level", "error");
    let child = vm.start();
    until("the guest's command runs", || said(&log).contains("64\nhere we are"));
    (vm, child)
}

#[test]
fn a_devices_thread_has_a_filter_of_its_own() {
    for (transport, victim, number, call) in [
        ("pci", "rng", libc::SYS_execve, "execve (59)"),
        ("mmio", "console", libc::SYS_socket, "socket (41)"),
    ] {
        let (_vm, child) = with_all_devices(transport);
        let all = threads(child.id());
        let mut names: Vec<_> = all.iter().map(|t| t.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["console", "hvc0", "rng", "serial", "vcpu0", "vmm"]);
        assert!(all.iter().all(|t| t.seccomp() == 2), "{all:?}");
        thread(&child, victim).make_call(number);
        let outcome = wait(child);
        outcome.assert_status(84);
        let sentence = format!("vmm: thread {victim} used the system call {call}, which its seccomp filter");
        assert!(outcome.errors.starts_with(&sentence), "{outcome}");
    }
}

#[test]
fn every_vcpu_has_a_filter() {
    let (_vm, child) = running(&[("--cpus", "3")]);
    let all = threads(child.id());
    assert_eq!(all.iter().filter(|t| t.name.starts_with("vcpu") && t.seccomp() == 2).count(), 3, "{all:?}");
    end(child).assert_status(143);
}

#[test]
fn a_call_on_no_list_ends_the_process_and_is_named_with_its_thread() {
    for (kernels_name, ours) in [("vmm", "main"), ("vcpu0", "vcpu0"), ("serial", "serial")] {
        let (_vm, child) = running(&[]);
        thread(&child, kernels_name).make_call(libc::SYS_execve);
        let outcome = wait(child);
        let sentence =
            format!("vmm: thread {ours} used the system call execve (59), which its seccomp filter");
        outcome.assert_status(84);
        assert!(outcome.errors.starts_with(&sentence) && outcome.errors.lines().count() == 1, "{outcome}");
    }
}

#[test]
fn a_call_on_no_list_is_let_through_where_it_is_only_logged() {
    let (_vm, child) = running(&[("--seccomp", "log")]);
    thread(&child, "serial").make_call(libc::SYS_getppid);
    std::thread::sleep(Duration::from_millis(200));
    end(child).assert_status(143);
}
