//! The boot doctor: from what is known of a boot that ended badly, to its likely cause and the cure.
//!
//! 1. While the guest runs, each console's backend keeps the last 16 KiB of its output.
//! 2. At a bad end, [`Facts`] are put together and [`diagnose`] looks for the first of `signatures` that fits.
//! 3. The [`Diagnosis`] prints as a few lines: the phase reached, the last console lines, cause and cure.
//!
//! Contract: a pure function of the facts. Nothing of the guest's output is trusted: it is cut, and what could
//! command a terminal is taken out.

mod console;
mod explain;
mod signatures;

use std::fmt;

use crate::config::VmConfig;
use crate::exit::Exit;
use crate::report::Milestone;

/// What is known of a boot that ended.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// How it ended.
    pub exit: Exit,
    /// How far it came.
    pub reached: Milestone,
    /// The end of what the guest wrote to its consoles, raw: the serial port's first, then the virtio console's.
    pub console: &'a [u8],
    /// Where the first vCPU stood, if it is known.
    pub rip: Option<u64>,
    /// The first bytes of the initrd (six are enough); empty without one.
    pub initrd: &'a [u8],
    /// The machine.
    pub config: &'a VmConfig,
}

/// What a boot's end is called. The names are stable: scripts and the manual use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The guest printed nothing, for want of a console.
    NoConsole,
    /// The kernel found no root file system.
    NoRoot,
    /// The kernel found no init, or could not run it.
    NoInit,
    /// Process 1 ended.
    InitDied,
    /// The kernel could not unpack the initrd.
    InitrdFormat,
    /// A driver is missing for what the boot needs.
    Modules,
    /// Memory ran out.
    Memory,
    /// The processor gave up: an exception in an exception in an exception.
    TripleFault,
    /// The kernel found a fault in itself.
    Oops,
    /// A processor or a task did not get on.
    Stall,
    /// Something waits for a device that does not come.
    DeviceWait,
    /// Another panic of the kernel.
    Panic,
    /// The guest reset itself.
    Reset,
    /// The boot fell silent.
    Silent,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::NoConsole,
        Self::NoRoot,
        Self::NoInit,
        Self::InitDied,
        Self::InitrdFormat,
        Self::Modules,
        Self::Memory,
        Self::TripleFault,
        Self::Oops,
        Self::Stall,
        Self::DeviceWait,
        Self::Panic,
        Self::Reset,
        Self::Silent,
    ];

    /// The class's name, as printed and as in the manual.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoConsole => "no-console",
            Self::NoRoot => "no-root",
            Self::NoInit => "no-init",
            Self::InitDied => "init-died",
            Self::InitrdFormat => "initrd-format",
            Self::Modules => "modules",
            Self::Memory => "memory",
            Self::TripleFault => "triple-fault",
            Self::Oops => "oops",
            Self::Stall => "stall",
            Self::DeviceWait => "device-wait",
            Self::Panic => "panic",
            Self::Reset => "reset",
            Self::Silent => "silent",
        }
    }
}

/// What the doctor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// How the machine ended.
    pub end: Exit,
    /// What that is called.
    pub class: Class,
    /// How far the boot came.
    pub reached: Milestone,
    /// The line that gave it away, if it is not among the last ones.
    pub telling: Option<String>,
    /// The last console lines, up to a panic, cleaned.
    pub last: Vec<String>,
    /// The likely cause: sentences.
    pub cause: String,
    /// The cure: sentences.
    pub cure: String,
}

/// Linux says this first when it gives up, whatever the level of its console.
pub(crate) const PANIC: &str = "Kernel panic - not syncing:";
/// How many of the last console lines are shown.
const LAST_LINES: usize = 10;

/// What is wrong with a boot that ended so; `None` where nothing is (the guest powered off, or somebody ended it).
pub fn diagnose(facts: &Facts<'_>) -> Option<Diagnosis> {
    if matches!(facts.exit, Exit::Shutdown { .. } | Exit::Stopped | Exit::Signal(_)) {
        return None;
    }
    let lines = console::lines(facts.console);
    let finding = signatures::find(facts, &lines);
    // Behind a panic's own line come registers and traces, which push what led to it out of sight.
    let end = lines.iter().position(|line| line.contains(PANIC)).map_or(lines.len(), |panic| panic + 1);
    let last = lines.get(end.saturating_sub(LAST_LINES)..end).unwrap_or_default().to_vec();
    Some(Diagnosis {
        end: facts.exit,
        class: finding.class,
        reached: facts.reached,
        telling: finding.line.filter(|line| !last.contains(line)),
        last,
        cause: finding.cause,
        cure: finding.cure,
    })
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.end, self.class.name())?;
        writeln!(f, "  phase reached: {}", self.reached.event())?;
        if let Some(line) = &self.telling {
            writeln!(f, "  telling line:\n    | {line}")?;
        }
        match self.last.as_slice() {
            [] => writeln!(f, "  the guest wrote nothing to its consoles")?,
            last => {
                writeln!(f, "  last console lines:")?;
                last.iter().try_for_each(|line| writeln!(f, "    | {line}"))?;
            }
        }
        writeln!(f, "  likely cause: {}", self.cause)?;
        write!(f, "  cure: {}", self.cure)
    }
}

#[cfg(test)]
mod tests;
