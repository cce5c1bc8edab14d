//! A machine that runs: a handle to command it, and a wait for its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::confine::Confinement;

use crate::exit::{Exit, Outcome};
use crate::kvm::{self, KvmError};
use crate::machine::Kept;
use crate::supervisor::{self, Signals};
use crate::vcpu::{Control, Next, RunningVcpu};

/// Why a machine could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// KVM refused to run a vCPU.
    #[error(transparent)]
    Vcpu(#[from] KvmError),
    /// KVM stopped with a reason that nothing can be done about.
    #[error("KVM cannot go on with a vCPU: exit reason {reason}, detail {detail:#x}")]
    Kvm {
        /// KVM_EXIT_* number.
        reason: u32,
        /// Sub-code of the reason.
        detail: u64,
    },
    /// A thread could not be set up.
    #[error("a thread could not be set up: {0}")]
    Thread(String),
    /// The wait itself failed.
    #[error("waiting for the machine's end failed: {0}")]
    Wait(#[from] std::io::Error),
}

/// A machine whose vCPUs run. Dropping it ends the machine.
pub struct RunningVm {
    handle: VmHandle,
    /// Freed in order: devices, memory, after the vCPUs have been joined.
    kept: Option<Kept>,
    confinement: Confinement,
}

/// Commands a running machine from any thread; stays valid, without effect, after its end.
#[derive(Clone)]
pub struct VmHandle {
    control: Arc<Control>,
    vcpus: Arc<Mutex<Vec<RunningVcpu>>>,
}

impl VmHandle {
    /// Has every vCPU leave the guest and wait. Returns when the order stands; a vCPU may finish an exit it is in.
    pub fn pause(&self) {
        self.control.order(Next::Pause);
        self.kick();
    }

    /// Lets the vCPUs go on.
    pub fn resume(&self) {
        self.control.order(Next::Run);
    }

    /// Ends the machine, as pulling the plug does.
    pub fn stop(&self) {
        self.end(Exit::Stopped);
    }

    pub(crate) fn end(&self, exit: Exit) {
        self.control.finish(exit);
        self.kick();
    }

    fn kick(&self) {
        for vcpu in self.vcpus.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            vcpu.kick();
        }
    }
}

impl RunningVm {
    pub(crate) fn new(
        control: Arc<Control>,
        vcpus: Vec<RunningVcpu>,
        kept: Kept,
        confinement: Confinement,
    ) -> Self {
        control.order(Next::Run);
        let handle = VmHandle { control, vcpus: Arc::new(Mutex::new(vcpus)) };
        Self { handle, kept: Some(kept), confinement }
    }

    /// Confines the calling thread, for good, to what it takes to wait for this machine's end, to free it and to
    /// report: for a program that does nothing else any more. The machine's own threads are confined from their start.
    ///
    /// # Errors
    /// The host does not confine threads.
    pub fn confine_this_thread(&self) -> Result<(), Failure> {
        let moves_memory = self.kept.as_ref().is_some_and(|kept| !kept.regions.is_empty());
        let calls = kvm::with_memory(supervisor::CALLS, moves_memory);
        self.confinement.enter(&calls).map_err(|why| Failure::Thread(why.to_string()))
    }

    /// A handle to command the machine with.
    pub fn handle(&self) -> VmHandle {
        self.handle.clone()
    }

    /// Becomes readable when the machine has ended.
    pub fn ended(&self) -> &vmm_sys_util::eventfd::EventFd {
        self.handle.control.ended()
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        self.handle.control.has_ended()
    }

    /// A number that changes whenever the guest writes to a console or marks a boot phase.
    pub(crate) fn signs_of_life(&self) -> u64 {
        let written = |kept: &Kept| kept.consoles.iter().map(|c| c.tail.written()).sum();
        self.kept.as_ref().map_or(0, written) + u64::from(self.handle.control.mark())
    }

    /// Whether the guest's init has come to run its command.
    pub(crate) fn command_runs(&self) -> bool {
        self.handle.control.mark() >= devices::legacy::boot_mark::MARK_COMMAND
    }

    /// Waits for the machine's end, frees all it had, and tells how it ended. `signals` end it in order, and so
    /// does silence as long as `silence` before the guest's command runs.
    pub fn wait(self, signals: Option<&Signals>, silence: Option<Duration>) -> Result<Exit, Failure> {
        self.conclude(signals, silence).map(|outcome| outcome.exit)
    }

    /// Like [`RunningVm::wait`], and tells what was learned: the boot report, if a recorder that is on was given to
    /// the builder, and after a bad end what the boot doctor says.
    pub fn conclude(
        mut self,
        signals: Option<&Signals>,
        silence: Option<Duration>,
    ) -> Result<Outcome, Failure> {
        let watched = supervisor::watch(&self, signals, silence);
        self.join_vcpus();
        watched?;
        let control = self.handle.control.clone();
        let exit = control.take_outcome().unwrap_or(Ok(Exit::Stopped))?;
        let kept = self.kept.take();
        let (exit, diagnosis) = kept.as_ref().map_or((exit, None), |kept| kept.autopsy(exit, &control));
        let own = |kept: &Kept| [vec![kept.mapping.addresses()], kept.regions.clone()].concat();
        let guest = kept.as_ref().map(own).unwrap_or_default();
        Ok(Outcome { exit, report: control.recorder().finish(&guest, exit), diagnosis })
    }

    fn tear_down(&mut self) {
        self.join_vcpus();
        self.kept = None;
    }

    fn join_vcpus(&mut self) {
        self.handle.kick();
        let mut vcpus =
            std::mem::take(&mut *self.handle.vcpus.lock().unwrap_or_else(PoisonError::into_inner));
        vcpus.iter_mut().for_each(RunningVcpu::join);
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        self.handle.control.finish(Exit::Stopped);
        self.tear_down();
    }
}
