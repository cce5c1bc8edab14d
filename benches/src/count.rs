//! One boot under the kernel's tracing: what it costs besides time.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::boot::{REST, Running};
use crate::memory::{self, Beside};
use crate::tracing::{self, Recording};
use crate::{BootError, Subject};

/// What a boot cost up to the marker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// From before the VMM was started to its guest's first instruction, in nanoseconds.
    pub first_entry: u64,
    /// VM exits by the processor's reason.
    pub exits: BTreeMap<String, u64>,
    /// Returns to userspace by KVM's reason.
    pub returns: BTreeMap<String, u64>,
    /// Ports and registers the guest accessed.
    pub accesses: BTreeMap<String, u64>,
    /// Memory beside the guest's.
    pub memory: Beside,
}

/// Boots `subject`, whose guest has `mib` MiB, once under tracing; after `deadline` it hangs. One machine at a time: tracing sees them all.
///
/// # Errors
/// As [`crate::time`]; also when the kernel has no tracing of KVM or we may not use it.
pub fn count(subject: &Subject, mib: u32, deadline: Duration) -> Result<Counted, BootError> {
    let trace = |why: String| BootError::Trace { subject: subject.name.clone(), why };
    let recording = Recording::start().map_err(|e| trace(e.to_string()))?;
    std::thread::sleep(REST);
    recording.mark_start().map_err(|e| trace(e.to_string()))?;
    let mut running = Running::start(subject, deadline)?;
    running.marker()?;
    let memory = stopped(running.id(), || memory::beside(running.id(), mib));
    let text = recording.text().map_err(|e| trace(e.to_string()))?;
    running.end()?;
    let told = tracing::read(&text);
    if !told.marked {
        return Err(trace("the marker is not in it; was the buffer too small?".to_owned()));
    }
    Ok(Counted {
        first_entry: told.first_entry.ok_or_else(|| trace("no guest entry".to_owned()))?,
        exits: told.exits,
        returns: told.returns,
        accesses: told.accesses,
        memory: memory.map_err(|e| trace(e.to_string()))?,
    })
}

/// Holds the process while it is looked at, or it would be gone.
fn stopped<T>(pid: u32, look: impl FnOnce() -> T) -> T {
    let send = |signal| i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok());
    send(Signal::SIGSTOP);
    let seen = look();
    send(Signal::SIGCONT);
    seen
}
