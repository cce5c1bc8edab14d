//! The threads of another process, and a way to have one of them do what it never would.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The instruction that enters the kernel, as it stands in memory.
const SYSCALL: i64 = 0x050f;

/// A thread of a running process.
#[derive(Clone, Debug)]
pub struct Thread {
    /// Its name, as the kernel has it.
    pub name: String,
    id: i32,
    status: PathBuf,
}

/// The threads that process `pid` has now.
pub fn threads(pid: u32) -> Vec<Thread> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let thread = |path: PathBuf| {
        // A thread may end while the list is made.
        let name = fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        Some(Thread { name, id, status: path.join("status") })
    };
    entries.filter_map(|entry| thread(entry.ok()?.path())).collect()
}

impl Thread {
    /// Its seccomp mode: 0 for none, 2 for a filter.
    pub fn seccomp(&self) -> u8 {
        let status = fs::read_to_string(&self.status).expect("the thread is there");
        let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        mode.and_then(|mode| mode.trim().parse().ok()).expect("a kernel with seccomp")
    }

    /// What it does in the kernel now, in the kernel's words; for who finds a process hanging.
    pub fn whereabouts(&self) -> String {
        let read = |name| fs::read_to_string(self.status.with_file_name(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
        format!("{}: {state}, in system call {}{}", self.name, read("syscall"), read("stack"))
    }

    /// Has the thread, which sleeps in a system call, come back from it and enter the kernel again with system call
    /// `number`, as a guest that took the thread over would.
    pub fn make_call(&self, number: i64) {
        let id = Pid::from_raw(self.id);
        ptrace::seize(id, Options::empty()).expect("the thread can be traced");
        for _ in 0..1000 {
            self.stop();
            let mut regs = ptrace::getregs(id).expect("registers");
            let before = ptrace::read(id, (regs.rip - 2) as ptrace::AddressType).unwrap_or_default();
            if before & 0xffff == SYSCALL {
                regs.rip -= 2;
                regs.rax = u64::try_from(number).expect("a number");
                // Not in a system call any more, or the kernel would begin the interrupted one again.
                regs.orig_rax = u64::MAX;
                ptrace::setregs(id, regs).expect("registers");
                return ptrace::detach(id, None).expect("the thread is let go");
            }
            // Somewhere else in its code: look again a little later.
            ptrace::cont(id, None).expect("the thread goes on");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("thread {} never sleeps in a system call", self.name);
    }

    fn stop(&self) {
        let id = Pid::from_raw(self.id);
        ptrace::interrupt(id).expect("the thread can be stopped");
        loop {
            match waitpid(id, Some(WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => {}
                stopped => break assert!(stopped.is_ok(), "{}: {stopped:?}", self.name),
            }
        }
    }
}
