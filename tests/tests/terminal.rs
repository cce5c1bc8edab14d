//! The terminal is raw while a guest has it, and as it was found after every end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tests::{DEADLINE, Terminal, TestVm, threads, until};

/// A machine at `terminal` whose guest's command has said that it runs.
fn running(terminal: &Terminal) -> (TestVm, Child) {
    let vm =
        TestVm::boot().serial("tty").command(&["sh", "-c", "echo here we are; read word; echo got $word"]);
    let child = terminal.start(&mut vm.words());
    until("the guest's command runs", || terminal.text().contains("here we are"));
    assert!(terminal.is_raw());
    (vm, child)
}

fn kill(child: &Child, signal: &str) {
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
}

/// The exit status, once it has ended; 128 + n when signal n ended it by default.
fn status(child: &mut Child) -> i32 {
    let limit = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            return status.code().or(signal.map(|n| 128 + n)).expect("one of them");
        }
        if Instant::now() > limit {
            let threads: Vec<_> = threads(child.id()).iter().map(tests::Thread::whereabouts).collect();
            let _ = child.kill();
            panic!("it hangs:\n{}", threads.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_typed_reaches_the_guest_and_its_power_off_gives_the_terminal_back() {
    let mut terminal = Terminal::new();
    let before = terminal.mode();
    assert!(!terminal.is_raw());
    let (_vm, mut child) = running(&terminal);
    terminal.press(b"hello\n");
    assert_eq!(status(&mut child), 0, "{}", terminal.text());
    assert_eq!(terminal.mode(), before);
    until("the guest's answer is there", || terminal.text().contains("got hello"));
}

#[test]
fn ctrl_a_x_ends_the_machine_and_gives_the_terminal_back() {
    let mut terminal = Terminal::new();
    let before = terminal.mode();
    let (_vm, mut child) = running(&terminal);
    terminal.press(b"\x01x");
    status(&mut child);
    assert_eq!(terminal.mode(), before);
}

#[test]
fn signals_give_the_terminal_back_while_the_guest_runs() {
    for (signal, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1)] {
        let terminal = Terminal::new();
        let before = terminal.mode();
        let (_vm, mut child) = running(&terminal);
        kill(&child, signal);
        assert_eq!(status(&mut child), 128 + number, "{}", terminal.text());
        assert_eq!(terminal.mode(), before, "{signal}");
    }
}

#[test]
fn signals_give_the_terminal_back_at_any_moment() {
    for (i, wait) in [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000].into_iter().enumerate() {
        let (signal, number) = if i % 2 == 0 { ("-INT", 2) } else { ("-TERM", 15) };
        let terminal = Terminal::new();
        let before = terminal.mode();
        let vm = TestVm::boot().serial("tty").command(&["sleep", "1000"]);
        let mut child = terminal.start(&mut vm.words());
        std::thread::sleep(Duration::from_millis(wait));
        kill(&child, signal);
        assert_eq!(status(&mut child), 128 + number, "after {wait} ms: {}", terminal.text());
        assert_eq!(terminal.mode(), before, "after {wait} ms");
    }
}

#[test]
fn a_guests_panic_gives_the_terminal_back() {
    let terminal = Terminal::new();
    let before = terminal.mode();
    let vm = TestVm::boot().serial("tty").initrd(None);
    let mut child = terminal.start(&mut vm.words());
    assert_eq!(status(&mut child), 80, "{}", terminal.text());
    assert_eq!(terminal.mode(), before);
}

#[test]
fn a_seccomp_kill_gives_the_terminal_back() {
    for name in ["vcpu0", "serial", "vmm"] {
        let terminal = Terminal::new();
        let before = terminal.mode();
        let (_vm, mut child) = running(&terminal);
        let all = threads(child.id());
        all.iter().find(|t| t.name == name).expect("the thread").make_call(libc::SYS_socket);
        assert_eq!(status(&mut child), 84, "{name}: {}", terminal.text());
        assert_eq!(terminal.mode(), before, "{name}");
        until("the sentence is there", || terminal.text().contains("used the system call socket (41)"));
    }
}

#[test]
fn a_refusal_leaves_the_terminal_alone() {
    let terminal = Terminal::new();
    let before = terminal.mode();
    let mut refused = TestVm::boot().serial("tty").kernel("/no/such/kernel").words();
    assert_eq!(status(&mut terminal.start(&mut refused)), 65, "{}", terminal.text());
    assert_eq!(terminal.mode(), before);
}
