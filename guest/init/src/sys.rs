//! System calls and port output: all that std lacks for a process 1.
#![allow(unsafe_code)]

use std::arch::asm;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

/// What process 1 hands on to the command, besides SIGCHLD which is its own.
const FORWARDED: [libc::c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPWR,
    libc::SIGWINCH,
];

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How far the boot came.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    /// Process 1 runs.
    Entered = 1,
    /// All modules are loaded.
    ModulesLoaded = 2,
    /// The command is about to start.
    Ready = 3,
}

/// Permission for the VMM's two ports, given back when dropped.
pub(crate) struct Ports {
    granted: bool,
}

impl Ports {
    const MARK: u16 = 0x608;
    const STATUS: u16 = 0x60c;
    const COUNT: libc::c_ulong = 5;

    /// Asks for the ports; where the kernel refuses (lockdown), nothing is told to the VMM.
    pub(crate) fn open() -> Self {
        // SAFETY: ioperm touches no memory of ours.
        let result = unsafe { libc::ioperm(libc::c_ulong::from(Self::MARK), Self::COUNT, 1) };
        Self { granted: result == 0 }
    }

    /// Tells the VMM how far we came.
    pub(crate) fn mark(&self, mark: Mark) {
        self.out(Self::MARK, mark as u8);
    }

    /// Tells the VMM how the command ended.
    pub(crate) fn exit_status(&self, status: u8) {
        self.out(Self::STATUS, status);
    }

    fn out(&self, port: u16, value: u8) {
        if self.granted {
            // SAFETY: ioperm granted both ports; port output touches no memory.
            unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
        }
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // SAFETY: as in `open`.
        unsafe { libc::ioperm(libc::c_ulong::from(Self::MARK), Self::COUNT, 0) };
    }
}

/// Makes a folder unless there is one.
pub(crate) fn make_folder(path: &CStr) -> io::Result<()> {
    // SAFETY: a NUL-terminated string.
    let made = check(unsafe { libc::mkdir(path.as_ptr(), 0o755) });
    made.or_else(|error| if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) })
}

/// Mounts a file system.
pub(crate) fn mount(kind: &CStr, source: &CStr, place: &CStr, options: &CStr) -> io::Result<()> {
    // SAFETY: four NUL-terminated strings that outlive the call.
    check(unsafe { libc::mount(source.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) })
}

/// Inserts an uncompressed module.
pub(crate) fn load_module(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, the parameters are an empty NUL-terminated string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    check(if result < 0 { -1 } else { 0 })
}

/// Makes this process the leader of a session whose terminal is `terminal`. Best effort: without it only job
/// control is missing.
pub(crate) fn take_terminal(terminal: &File) {
    // SAFETY: neither call touches memory of ours; the descriptor is open.
    unsafe {
        libc::setsid();
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0);
    }
}

/// Reads and writes wait from here on.
pub(crate) fn set_blocking(file: &File) {
    // SAFETY: the descriptor is open and the flags are an integer.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
}

fn change_mode(terminal: &File, change: impl FnOnce(&mut libc::termios)) -> io::Result<()> {
    let mut mode = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: tcgetattr fills the structure when it returns 0, and only then is it read.
    let mut mode = unsafe {
        check(libc::tcgetattr(terminal.as_raw_fd(), mode.as_mut_ptr()))?;
        mode.assume_init()
    };
    change(&mut mode);
    // SAFETY: the structure is initialised and outlives the call.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const mode) })
}

/// Every byte as it is, both ways.
pub(crate) fn make_raw(terminal: &File) -> io::Result<()> {
    // SAFETY: cfmakeraw changes the structure it is given.
    change_mode(terminal, |mode| unsafe { libc::cfmakeraw(mode) })
}

/// Echo, line editing, signals by key, newline to carriage return and newline.
pub(crate) fn cook(terminal: &File) -> io::Result<()> {
    change_mode(terminal, |mode| {
        mode.c_iflag = libc::ICRNL | libc::IXON | libc::IUTF8;
        mode.c_oflag = libc::OPOST | libc::ONLCR;
        mode.c_lflag = libc::ISIG | libc::ICANON | libc::ECHO | libc::ECHOE | libc::ECHOK | libc::IEXTEN;
        mode.c_cflag |= libc::CREAD | libc::CLOCAL;
    })
}

/// Waits until all output has left.
pub(crate) fn drain(terminal: &File) {
    // SAFETY: the descriptor is open.
    unsafe { libc::tcdrain(terminal.as_raw_fd()) };
}

/// Has the command start in a process group of its own, in the foreground of its terminal, with no signal
/// blocked.
pub(crate) fn in_foreground(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and makes only system calls, allocating nothing.
    unsafe {
        command.pre_exec(|| {
            libc::setpgid(0, 0);
            // SIGTTOU is still blocked here, so that a process in the background may do this.
            libc::tcsetpgrp(0, libc::getpid());
            let mut none = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            check(libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()))
        });
    }
}

fn awaited() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that the rest changes.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in FORWARDED.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Keeps signals pending for [`next_event`]. Process 1 would otherwise never see one that has no handler.
pub(crate) fn block_signals() {
    let mut set = awaited();
    // SAFETY: the set is initialised; process 1 has one thread.
    unsafe {
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
    }
}

/// What process 1 waits for.
pub(crate) enum Event {
    /// Some child has ended.
    Child,
    /// A signal for the command.
    Signal(libc::c_int),
}

/// Waits for the next of the blocked signals.
pub(crate) fn next_event() -> Event {
    let set = awaited();
    // SAFETY: the set is initialised; no information is asked for.
    match unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) } {
        signal if signal > 0 && signal != libc::SIGCHLD => Event::Signal(signal),
        // An interruption is taken for a child: to look is harmless.
        _ => Event::Child,
    }
}

/// Takes one ended child: its id and wait status.
pub(crate) fn reap_one() -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the status is a local integer.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Sends a signal to the command's process group.
pub(crate) fn signal_group(leader: libc::pid_t, signal: libc::c_int) {
    // SAFETY: kill touches no memory.
    unsafe { libc::kill(-leader, signal) };
}

/// Ends the guest. Never returns: a process 1 that did would panic its kernel.
pub(crate) fn power_off() -> ! {
    // SAFETY: none of these calls touches memory of ours.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
        loop {
            libc::pause();
        }
    }
}
