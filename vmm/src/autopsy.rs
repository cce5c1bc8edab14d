//! From a machine that has ended to what its end was, and to what the boot doctor says of it.

use std::fs::File;
use std::io::Read;

use crate::config::VmConfig;
use crate::exit::Exit;
use crate::machine::Kept;
use crate::report::doctor::{self, Diagnosis, Facts, PANIC};
use crate::vcpu::Control;

impl Kept {
    /// How the machine ended, as the console tells it too, and the doctor's word on a bad end.
    pub(crate) fn autopsy(&self, exit: Exit, control: &Control) -> (Exit, Option<Diagnosis>) {
        let console: String = self.consoles.iter().map(|c| c.tail.text()).collect();
        let exit = match exit {
            Exit::Shutdown { .. } => Exit::Shutdown { guest_status: control.guest_status() },
            // A kernel without a PVPANIC driver resets behind its panic.
            Exit::Reset if console.contains(PANIC) => Exit::Panic,
            exit => exit,
        };
        tracing::debug!("the machine ended ({exit}), with vCPU 0 at {:#x}", control.rip().unwrap_or(0));
        let diagnosis = doctor::diagnose(&Facts {
            exit,
            reached: control.recorder().latest(),
            console: console.as_bytes(),
            rip: control.rip(),
            initrd: &initrd_head(&self.config),
            config: &self.config,
        });
        (exit, diagnosis)
    }
}

/// The first bytes of the initrd, by which its compression is known; none if they cannot be had any more.
fn initrd_head(config: &VmConfig) -> Vec<u8> {
    let mut head = Vec::new();
    if let Some(path) = &config.boot.initrd {
        let _ = File::open(path).and_then(|file| file.take(6).read_to_end(&mut head));
    }
    head
}
