//! A machine that is built and wired, but does not run yet.

use std::sync::Arc;

use devices::confine::Confinement;
use vm_memory::GuestMemoryMmap;

use crate::config::VmConfig;
use crate::kvm::{Vm, install_kick_handler};
use crate::plug::Console;
use crate::ram::Mapping;
use crate::running::{Failure, RunningVm};
use crate::terminal::Raw;
use crate::vcpu::{Buses, Control, Runner};

/// Everything is in place; [`Machine::start`] lets the guest run.
pub struct Machine {
    pub(crate) runners: Vec<Runner>,
    pub(crate) control: Arc<Control>,
    pub(crate) confinement: Confinement,
    pub(crate) kept: Kept,
}

/// What lives as long as the machine. Freed in the order of the fields: memory goes last.
pub(crate) struct Kept {
    /// Ends the terminal's raw mode last of what a user sees, when the consoles have said their last.
    pub(crate) consoles: Vec<Console>,
    pub(crate) _raw: Option<Raw>,
    /// What devices show the guest beside its memory: where it is in this process.
    pub(crate) regions: Vec<std::ops::Range<u64>>,
    /// What it was made from, for the boot doctor.
    pub(crate) config: VmConfig,
    pub(crate) _buses: Buses,
    pub(crate) _vm: Vm,
    pub(crate) _ram: GuestMemoryMmap,
    pub(crate) mapping: Mapping,
}

impl Machine {
    /// Starts the vCPUs.
    pub fn start(self) -> Result<RunningVm, Failure> {
        install_kick_handler()?;
        let threads: Result<Vec<_>, _> =
            self.runners.into_iter().map(|r| r.spawn(&self.confinement)).collect();
        match threads {
            Ok(threads) => Ok(RunningVm::new(self.control, threads, self.kept, self.confinement)),
            Err(e) => {
                // Threads that did start are parked on the control, and leave.
                self.control.finish(crate::exit::Exit::Stopped);
                Err(Failure::Thread(e.to_string()))
            }
        }
    }
}
