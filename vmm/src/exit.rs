//! How a virtual machine ended, and the exit status that says so.

use std::fmt;

use crate::report::Report;
use crate::report::doctor::Diagnosis;

/// The end of a virtual machine that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off; with the status its init reported, if it did.
    Shutdown {
        /// What the guest wrote to the status port.
        guest_status: Option<u8>,
    },
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked and said so through PVPANIC.
    Panic,
    /// A vCPU triple-faulted.
    TripleFault,
    /// The guest said nothing for longer than was allowed.
    Silent,
    /// Somebody with a handle stopped the machine.
    Stopped,
    /// A signal asked this process to end.
    Signal(u8),
}

/// A machine's end, and what was learned about it on the way.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// The boot report, if one was asked for.
    pub report: Option<Report>,
    /// What the boot doctor says, if the end was a bad one.
    pub diagnosis: Option<Diagnosis>,
}

/// Exit statuses of the `vmm` binary by class; 128 + n means ended by signal n.
pub mod status {
    /// The guest powered off.
    pub const SHUTDOWN: u8 = 0;
    /// The command line or the configuration is wrong.
    pub const USAGE: u8 = 64;
    /// The kernel or the initrd is no such thing.
    pub const BOOT_FILE: u8 = 65;
    /// The host lacks something: /dev/kvm, a permission, memory.
    pub const HOST: u8 = 69;
    /// A bug of ours, or an internal error of KVM.
    pub const BUG: u8 = 70;
    /// The guest's kernel panicked.
    pub const PANIC: u8 = 80;
    /// A vCPU triple-faulted.
    pub const TRIPLE_FAULT: u8 = 81;
    /// The guest reset itself.
    pub const RESET: u8 = 82;
    /// The guest went silent.
    pub const SILENT: u8 = 83;
    /// A thread used a system call outside its seccomp filter.
    pub const SECCOMP: u8 = 84;
}

impl Exit {
    /// The process exit status of this end's class.
    pub const fn status(self) -> u8 {
        match self {
            Self::Shutdown { .. } | Self::Stopped => status::SHUTDOWN,
            Self::Reset => status::RESET,
            Self::Panic => status::PANIC,
            Self::TripleFault => status::TRIPLE_FAULT,
            Self::Silent => status::SILENT,
            Self::Signal(n) => 128 + n,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown { .. } => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::Panic => f.write_str("the guest's kernel panicked"),
            Self::TripleFault => f.write_str("a vCPU triple-faulted"),
            Self::Silent => f.write_str("the guest went silent"),
            Self::Stopped => f.write_str("the machine was stopped"),
            Self::Signal(n) => write!(f, "signal {n} ended the machine"),
        }
    }
}
