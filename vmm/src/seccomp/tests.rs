//! A filter can only be seen at work by the process that dies of it: a test runs itself again as that process.

use std::process::{Command, Output};
use std::thread::Builder;

use devices::chardev;
use nix::sys::termios::{FlushArg, tcflush};
use vm_memory::mmap::MmapRegion;

use super::*;
use crate::{supervisor, vcpu};

/// Tells the child which trial it is.
const TRIAL: &str = "KIWI_SECCOMP_TRIAL";

/// Runs test `name` again as a process of its own, with `trial` in its environment.
fn again(name: &str, trial: &str) -> Output {
    let me = std::env::current_exe().expect("this program's path");
    let test = format!("seccomp::tests::{name}");
    let mut child = Command::new(me);
    child
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env(TRIAL, trial)
        .env("RUST_BACKTRACE", "0");
    child.output().expect("the child starts")
}

fn confined<T: Send + 'static>(mode: SeccompMode, name: &str, calls: &[Call], body: fn() -> T) -> T {
    let thread = confinement(mode).spawn(Builder::new().name(name.to_owned()), calls, body);
    thread.expect("starts").join().expect("ends").expect("was confined")
}

/// Whether the host gives a page of memory with these protections.
fn gives(prot: i32) -> bool {
    MmapRegion::<()>::build(None, 4096, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).is_ok()
}

fn make_code() -> bool {
    gives(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC)
}

fn flush(terminal: impl AsFd) -> bool {
    tcflush(terminal, FlushArg::TCIFLUSH).is_ok()
}

fn is_confined() -> bool {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("procfs");
    status.lines().any(|line| line == "Seccomp:\t2")
}

#[test]
fn a_forbidden_call_ends_the_process_and_is_named_with_its_thread() {
    let on = SeccompMode::On;
    match std::env::var(TRIAL).as_deref() {
        Ok("open") => confined(on, "vcpu7", vcpu::CALLS, || std::fs::File::open("/").is_ok()),
        Ok("code") => confined(on, "serial", chardev::CALLS, make_code),
        Ok("request") => confined(on, "vcpu0", vcpu::CALLS, || flush(io::stdin())),
        Ok(_) => confined(on, "main", supervisor::CALLS, || std::net::UdpSocket::bind("127.0.0.1:0").is_ok()),
        Err(_) => {
            let me = "a_forbidden_call_ends_the_process_and_is_named_with_its_thread";
            for (trial, thread, call) in [
                ("open", "vcpu7", "openat (257)"),
                ("code", "serial", "mmap (9)"),
                ("request", "vcpu0", "ioctl (16)"),
                ("network", "main", "socket (41)"),
            ] {
                assert_caught(&again(me, trial), thread, call);
            }
            return;
        }
    };
    unreachable!("the forbidden call came back");
}

fn assert_caught(output: &Output, thread: &str, call: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.starts_with("vmm: ")).unwrap_or_default();
    let begins = format!("vmm: thread {thread} used the system call {call}");
    assert!(line.starts_with(&begins), "wants {begins:?}, got {said}");
    assert!(line.ends_with("please report it, with this line"), "cut: {said}");
    assert_eq!(output.status.code(), Some(84), "{said}");
}

#[test]
fn a_log_lets_calls_through_and_off_is_no_filter() {
    if std::env::var(TRIAL).is_ok() {
        let opens = || (std::fs::File::open("/").is_ok(), is_confined());
        assert_eq!(confined(SeccompMode::Log, "vcpu0", vcpu::CALLS, opens), (true, true));
        assert_eq!(confined(SeccompMode::Off, "vcpu0", vcpu::CALLS, opens), (true, false));
        return;
    }
    let output = again("a_log_lets_calls_through_and_off_is_no_filter", "log");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_confined_thread_may_still_use_memory_locks_and_panic() {
    if std::env::var(TRIAL).is_ok() {
        let work = || {
            let memory = vec![1_u8; 8 << 20];
            let (tell, told) = std::sync::mpsc::channel();
            tell.send(memory.len()).expect("sent");
            eprintln!("{:?}", (told.recv(), std::time::SystemTime::now()));
            let _ = std::panic::catch_unwind(|| panic!("on purpose"));
            memory.iter().map(|b| usize::from(*b)).sum::<usize>()
        };
        assert_eq!(confined(SeccompMode::On, "vcpu0", vcpu::CALLS, work), 8_usize << 20);
        return;
    }
    let output = again("a_confined_thread_may_still_use_memory_locks_and_panic", "work");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn every_call_has_a_name() {
    for (number, name) in [(0, "read"), (16, "ioctl"), (435, "clone3")] {
        let words = Forbidden { thread: *b"w\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", number }.to_string();
        assert!(
            words.starts_with(&format!("vmm: thread w used the system call {name} ({number})")),
            "{words}"
        );
    }
    let unknown = Forbidden { thread: [b'x'; 16], number: -1 }.to_string();
    assert!(unknown.contains("the system call that has no name (-1)"), "{unknown}");
}

/// What `program` says to call `number` with arguments of zeros.
fn verdict(program: &BpfProgram, number: u32) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let jump = |taken: bool| 1 + usize::from(if taken { jt } else { jf });
        at += match code {
            // seccomp_data: the number, the architecture, then what is zero here.
            0x20 => {
                value = [number, 0xc000_003e].get(k as usize / 4).copied().unwrap_or(0);
                1
            }
            0x15 => jump(value == k),
            JUMP_IF_NOT_BELOW => jump(value >= k),
            JUMP => 1 + k as usize,
            0x06 => return k,
            other => panic!("no filter of ours has instruction {other:#x}"),
        };
    }
}

#[test]
fn a_filter_in_parts_allows_what_is_on_its_list_and_nothing_else() {
    for calls in [vcpu::CALLS, supervisor::CALLS, chardev::CALLS] {
        let program = compile(calls, SeccompAction::Trap).expect("compiles");
        let all = || calls.iter().chain(EVERY_THREAD);
        for number in 0..1000_u32 {
            let allowed = all().any(|call| match *call {
                Call::Any(listed) => listed == i64::from(number),
                Call::Only(listed, _, values) => listed == i64::from(number) && values.contains(&0),
            });
            let wanted = if allowed { SeccompAction::Allow } else { SeccompAction::Trap };
            assert_eq!(verdict(&program, number), u32::from(wanted), "call {number}");
        }
    }
}
