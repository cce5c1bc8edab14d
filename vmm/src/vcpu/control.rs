//! What the vCPUs shall do, and how the machine ended: the one value all its threads share.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::exit::Exit;
use crate::report::{Milestone, Recorder};
use crate::running::Failure;

/// What a vCPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Next {
    /// Enter the guest.
    Run = 0,
    /// Wait here.
    Pause = 1,
    /// End the thread.
    End = 2,
}

/// Orders to the vCPUs and the machine's end. Orders are read without a lock before each entry.
pub(crate) struct Control {
    next: AtomicU8,
    outcome: Mutex<Option<Result<Exit, Failure>>>,
    changed: Condvar,
    /// The last status the guest's init reported, plus one; 0 for none.
    guest_status: std::sync::atomic::AtomicU16,
    mark: AtomicU8,
    ended: EventFd,
    /// Told how far the boot has come.
    recorder: Recorder,
    /// Where the first vCPU, or the one that faulted, stood at the end.
    rip: OnceLock<u64>,
}

impl Control {
    /// A machine that is paused.
    pub(crate) fn new(recorder: Recorder) -> std::io::Result<Self> {
        Ok(Self {
            next: AtomicU8::new(Next::Pause as u8),
            outcome: Mutex::new(None),
            changed: Condvar::new(),
            guest_status: std::sync::atomic::AtomicU16::new(0),
            mark: AtomicU8::new(0),
            ended: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            recorder,
            rip: OnceLock::new(),
        })
    }

    /// Readable once the machine has ended.
    pub(crate) fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// The guest's init reported its command's exit status.
    pub(crate) fn set_guest_status(&self, status: u8) {
        self.guest_status.store(u16::from(status) + 1, Ordering::Release);
    }

    /// What the guest's init reported, if anything.
    pub(crate) fn guest_status(&self) -> Option<u8> {
        self.guest_status.load(Ordering::Acquire).checked_sub(1).and_then(|s| u8::try_from(s).ok())
    }

    /// The guest's init reached a phase.
    pub(crate) fn set_mark(&self, mark: u8) {
        self.mark.store(mark, Ordering::Release);
        if let Some(milestone) = Milestone::of_mark(mark) {
            self.recorder.reach(milestone);
        }
    }

    /// The last phase the guest's init reached; 0 before any.
    pub(crate) fn mark(&self) -> u8 {
        self.mark.load(Ordering::Acquire)
    }

    /// Who is told how far the boot has come.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// A vCPU stands at `rip` and will not go on. The first one told counts.
    pub(crate) fn set_rip(&self, rip: u64) {
        let _ = self.rip.set(rip);
    }

    /// Where the first vCPU, or the one that faulted, stood at the end.
    pub(crate) fn rip(&self) -> Option<u64> {
        self.rip.get().copied()
    }

    /// Whether the machine has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.next.load(Ordering::Acquire) == Next::End as u8
    }

    /// Lets the vCPUs run or has them wait; an ended machine stays ended.
    pub(crate) fn order(&self, next: Next) {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_none() {
            self.next.store(next as u8, Ordering::Release);
            self.changed.notify_all();
        }
    }

    /// The machine has ended so; the first end counts.
    pub(crate) fn finish(&self, exit: Exit) {
        self.end(Ok(exit));
    }

    /// The machine cannot go on.
    pub(crate) fn fail(&self, failure: Failure) {
        self.end(Err(failure));
    }

    fn end(&self, how: Result<Exit, Failure>) {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.get_or_insert(how);
        self.next.store(Next::End as u8, Ordering::Release);
        self.changed.notify_all();
        // EAGAIN: it has been signalled already.
        let _ = self.ended.write(1);
    }

    /// How the machine ended; `None` while it has not. The outcome can be taken once.
    pub(crate) fn take_outcome(&self) -> Option<Result<Exit, Failure>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Returns at once while the machine runs; waits while it is paused.
    pub(crate) fn wait_until_running(&self) -> Next {
        if self.next.load(Ordering::Acquire) == Next::Run as u8 {
            return Next::Run;
        }
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.next.load(Ordering::Acquire) {
                n if n == Next::Run as u8 => return Next::Run,
                n if n == Next::End as u8 => return Next::End,
                _ => outcome = self.changed.wait(outcome).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
