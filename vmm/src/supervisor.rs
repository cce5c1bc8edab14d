//! The main thread while a machine runs: waits for its end, for signals, and for a guest that has gone silent.
//!
//! An event loop of one subscriber; whatever wakes it ends in one [`Exit`], and the first one counts.

use std::os::fd::AsRawFd;
use std::time::Duration;

use devices::confine::Call;
use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vmm_sys_util::epoll::EventSet;

use crate::exit::Exit;
use crate::kvm;
use crate::running::{Failure, RunningVm, VmHandle};

/// Signals that end a machine in order.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// What the thread asks of the kernel that waits for a machine's end, frees it and reports.
pub(crate) const CALLS: &[Call] = &[
    // The event loop, and kicks to the vCPUs.
    Call::Any(libc::SYS_epoll_create1),
    Call::Any(libc::SYS_epoll_ctl),
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_pwait),
    Call::Any(libc::SYS_eventfd2),
    Call::Any(libc::SYS_read),
    Call::Any(libc::SYS_tgkill),
    // Freeing devices.
    Call::Only(libc::SYS_ioctl, 1, kvm::TEARDOWN_REQUESTS),
    Call::Any(libc::SYS_unlink),
    // The initrd's first bytes, /proc/self/smaps, KVM's counters, the boot report's file.
    Call::Any(libc::SYS_pread64),
    Call::Any(libc::SYS_openat),
    Call::Any(libc::SYS_statx),
    Call::Any(libc::SYS_fstat),
    Call::Any(libc::SYS_newfstatat),
    Call::Any(libc::SYS_lseek),
];

/// The signals that end a machine, taken from their default action for this thread and those it starts.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals. To be called before any thread is started.
    pub fn block() -> std::io::Result<Self> {
        let set: SigSet = ENDING.into_iter().collect();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
    }
}

struct Supervisor<'a> {
    vm: &'a RunningVm,
    handle: VmHandle,
    signals: Option<&'a Signals>,
}

impl MutEventSubscriber for Supervisor<'_> {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let Some(signals) = self.signals else { return };
        if let Ok(Some(info)) = signals.0.read_signal() {
            self.handle.end(Exit::Signal(u8::try_from(info.ssi_signo).unwrap_or(0)));
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // An event that cannot be added would leave the machine without an end: the loop's own error tells.
        let added = ops.add(Events::new(self.vm.ended(), EventSet::IN));
        let signals = self.signals.map(|s| ops.add(Events::new_raw(s.0.as_raw_fd(), EventSet::IN)));
        if added.is_err() || signals.is_some_and(|s| s.is_err()) {
            self.handle.end(Exit::Stopped);
        }
    }
}

/// Waits until `vm` has ended; a signal ends it, and so does silence longer than `silence` before the guest's
/// command runs.
pub(crate) fn watch(
    vm: &RunningVm,
    signals: Option<&Signals>,
    silence: Option<Duration>,
) -> Result<(), Failure> {
    let loop_failed = |e: event_manager::Error| Failure::Wait(std::io::Error::other(format!("{e:?}")));
    let mut events = EventManager::new().map_err(loop_failed)?;
    events.add_subscriber(Supervisor { vm, handle: vm.handle(), signals });
    let timeout = silence.map_or(-1, |s| i32::try_from(s.as_millis()).unwrap_or(i32::MAX));
    let mut life = vm.signs_of_life();
    while !vm.has_ended() {
        let woken = events.run_with_timeout(timeout).map_err(loop_failed)?;
        let now = vm.signs_of_life();
        if woken == 0 && silence.is_some() && now == life && !vm.command_runs() {
            vm.handle().end(Exit::Silent);
        }
        life = now;
    }
    Ok(())
}
