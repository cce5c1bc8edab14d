//! Confinement of threads by seccomp filters.
//!
//! 1. A thread's list ([`devices::confine::Call`]) stands beside its code; [`EVERY_THREAD`] is added to it.
//! 2. [`confinement`] makes of the configuration what starts the machine's threads.
//! 3. A call on no list raises SIGSYS on its thread. The handler says which call and which thread, gives the terminal
//!    back and ends the process: whatever runs in that thread is no longer to be trusted.
//!
//! Filters compare numbers and arguments; what a pointer points to they cannot see. A call made while every signal is
//! blocked, as libc does inside of thread and process creation, ends the process by SIGSYS itself, without our line.

mod sys;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::thread;

use devices::confine::{Call, Confinement, Entry};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter, sock_filter,
};

use crate::config::SeccompMode;
use crate::exit::status;

/// Protections of memory that is no code: none, read, read and write.
const NO_CODE: &[u32] = &[0, 1, 3];

/// What every thread needs: memory, locks, time, signals, last words and its end.
const EVERY_THREAD: &[Call] = &[
    // Eventfds, the log and standard error.
    Call::Any(libc::SYS_write),
    Call::Any(libc::SYS_close),
    // A debug build of the standard library looks at a descriptor before it closes it.
    #[cfg(debug_assertions)]
    #[allow(clippy::cast_possible_truncation)] // the kernel reads 32 bits of a command
    Call::Only(libc::SYS_fcntl, 1, &[libc::F_GETFD as u32]),
    // The allocator's, and a thread's stack when it is joined. No thread makes code.
    Call::Only(libc::SYS_mmap, 2, NO_CODE),
    Call::Only(libc::SYS_mprotect, 2, NO_CODE),
    Call::Any(libc::SYS_munmap),
    Call::Any(libc::SYS_mremap),
    Call::Any(libc::SYS_brk),
    Call::Any(libc::SYS_madvise),
    Call::Any(libc::SYS_futex),
    Call::Any(libc::SYS_sched_yield),
    // Where the vDSO cannot tell the time, and seeds of hash tables.
    Call::Any(libc::SYS_clock_gettime),
    Call::Any(libc::SYS_getrandom),
    // A call that a signal or a debugger interrupted.
    Call::Any(libc::SYS_restart_syscall),
    Call::Any(libc::SYS_rt_sigreturn),
    Call::Any(libc::SYS_rt_sigprocmask),
    Call::Any(libc::SYS_sigaltstack),
    Call::Any(libc::SYS_getpid),
    Call::Any(libc::SYS_gettid),
    Call::Any(libc::SYS_exit),
    Call::Any(libc::SYS_exit_group),
    // A thread that panics, or is caught here, gives the terminal back; libc looks whether it did.
    #[allow(clippy::cast_possible_truncation)] // the kernel reads 32 bits of a request
    Call::Only(libc::SYS_ioctl, 1, &[libc::TCSETS as u32, libc::TCGETS as u32]),
];

/// What starts the threads of a machine whose configuration says `mode`.
pub(crate) fn confinement(mode: SeccompMode) -> Confinement {
    let forbidden = match mode {
        SeccompMode::Off => return Confinement::none(),
        SeccompMode::On => SeccompAction::Trap,
        SeccompMode::Log => SeccompAction::Log,
    };
    Confinement::new(move |calls| prepare(calls, forbidden.clone()))
}

fn prepare(calls: &[Call], forbidden: SeccompAction) -> io::Result<Entry> {
    sys::handle_traps()?;
    let program = compile(calls, forbidden).map_err(io::Error::other)?;
    Ok(Box::new(move || {
        remember_name();
        apply_filter(&program).map_err(|why| io::Error::other(format!("it cannot be confined: {why}")))
    }))
}

fn compile(calls: &[Call], forbidden: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // A thread's own requests come first: a filter compares in this order, and KVM_RUN is the most frequent call.
    for call in calls.iter().chain(EVERY_THREAD) {
        if let Call::Only(number, argument, values) = *call {
            let rules = rules.entry(number).or_default();
            for value in values {
                rules.push(SeccompRule::new(vec![SeccompCondition::new(
                    argument,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::Eq,
                    u64::from(*value),
                )?])?);
            }
        }
    }
    // No rule: any arguments. Whoever needs that has it, whatever others said.
    rules.extend(calls.iter().chain(EVERY_THREAD).filter_map(|call| match call {
        Call::Any(number) => Some((*number, Vec::new())),
        Call::Only(..) => None,
    }));
    let rules: Vec<_> = rules.into_iter().collect();
    let parts = rules.chunks(PART).map(|part| {
        let first = part.first().map_or(0, |(number, _)| *number);
        let part = part.iter().cloned().collect();
        let filter = SeccompFilter::new(part, forbidden.clone(), SeccompAction::Allow, TargetArch::x86_64)?;
        Ok((u32::try_from(first).unwrap_or(u32::MAX), filter.try_into()?))
    });
    Ok(join(&parts.collect::<Result<Vec<_>, seccompiler::BackendError>>()?))
}

/// Call numbers that one part of a filter knows.
const PART: usize = 6;
/// What every part begins with: the architecture is checked, and the call's number loaded.
const HEAD: usize = 4;
/// BPF_JMP | BPF_JGE | BPF_K and BPF_JMP | BPF_JA (Documentation/networking/filter.rst).
const JUMP_IF_NOT_BELOW: u16 = 0x35;
const JUMP: u16 = 0x05;

/// One filter of several, each for the numbers from its own up to the next one's.
///
/// A filter by itself compares a call with one number after the other. Each thread's is tried out by the kernel with
/// every number there is when it is installed, so that alone took a tenth of the time until the guest's first
/// instruction.
fn join(parts: &[(u32, BpfProgram)]) -> BpfProgram {
    let body = |part: usize| parts.get(part).and_then(|(_, program)| program.get(HEAD..)).unwrap_or_default();
    let head = parts.first().and_then(|(_, program)| program.get(..HEAD)).unwrap_or_default();
    let mut program = head.to_vec();
    let mut ahead: usize = (0..parts.len()).map(|part| body(part).len()).sum();
    for (part, (first, _)) in parts.iter().enumerate().skip(1).rev() {
        ahead -= body(part).len();
        // Behind this pair come those of the parts before this one, then the bodies.
        let over = 2 * (part - 1) + ahead;
        program.push(sock_filter { code: JUMP_IF_NOT_BELOW, jt: 0, jf: 1, k: *first });
        program.push(sock_filter { code: JUMP, jt: 0, jf: 0, k: u32::try_from(over).unwrap_or(u32::MAX) });
    }
    (0..parts.len()).for_each(|part| program.extend_from_slice(body(part)));
    program
}

/// As long as the kernel lets a thread's name be, with a zero behind it.
type Name = [u8; 16];

thread_local! {
    // Const-initialised and without a destructor: a signal handler reads it.
    static NAME: Cell<Name> = const { Cell::new([0; 16]) };
}

fn remember_name() {
    let mut name = [0; 16];
    let thread = thread::current();
    let given = thread.name().unwrap_or("unnamed").bytes();
    name.iter_mut().take(15).zip(given).for_each(|(to, from)| *to = from);
    NAME.set(name);
}

/// Says what was caught, from a signal handler: nothing here allocates or takes a lock. Gives the exit status.
fn report(number: i32) -> u8 {
    crate::terminal::restore();
    let mut line = Line::default();
    // A line that is full is cut, which is better than none.
    let _ = write!(line, "{}", Forbidden { thread: NAME.get(), number });
    let _ = nix::unistd::write(io::stderr().as_fd(), line.bytes());
    status::SECCOMP
}

/// One caught call, in words.
struct Forbidden {
    thread: Name,
    number: i32,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.thread.iter().position(|b| *b == 0).unwrap_or(self.thread.len());
        let thread = self.thread.get(..end).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("?");
        let call = usize::try_from(self.number).ok().and_then(syscalls::Sysno::new);
        let call = call.map_or("that has no name", |call| call.name());
        writeln!(
            f,
            "vmm: thread {thread} used the system call {call} ({}), which its seccomp filter forbids; this is a bug \
             in vmm or an attack by the guest: please report it, with this line",
            self.number
        )
    }
}

/// Text in a fixed place.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }
}

impl Line {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..).unwrap_or_default();
        let n = room.len().min(text.len());
        room.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
        self.len += n;
        if n < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
