//! The instants of a boot.

use serde::Serialize;

/// An instant that every good boot passes, in this order (the first console byte may come anywhere after the first
/// entry, or never).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Milestone {
    /// The process began.
    Exec,
    /// The configuration is read and keeps all rules.
    Parsed,
    /// Kernel, initrd and command line are in guest memory.
    KernelLoaded,
    /// KVM made the machine, which was begun before the kernel was loaded, and memory is mapped.
    VmCreated,
    /// Devices, tables and vCPUs are in place.
    VcpusReady,
    /// The first vCPU enters the guest for the first time.
    FirstEntry,
    /// The guest's first byte to any console.
    FirstConsoleByte,
    /// Process 1 runs (boot mark 1).
    InitEntered,
    /// The initrd's modules are loaded (boot mark 2).
    ModulesLoaded,
    /// Process 1 is about to run the command (boot mark 3): the boot is over.
    Marker,
    /// The machine ended.
    End,
}

impl Milestone {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Exec,
        Self::Parsed,
        Self::KernelLoaded,
        Self::VmCreated,
        Self::VcpusReady,
        Self::FirstEntry,
        Self::FirstConsoleByte,
        Self::InitEntered,
        Self::ModulesLoaded,
        Self::Marker,
        Self::End,
    ];

    /// The milestone of a byte written to the boot mark port; other bytes mark nothing.
    pub const fn of_mark(mark: u8) -> Option<Self> {
        match mark {
            1 => Some(Self::InitEntered),
            2 => Some(Self::ModulesLoaded),
            3 => Some(Self::Marker),
            _ => None,
        }
    }

    /// What happened at this instant: "the kernel is loaded".
    pub const fn event(self) -> &'static str {
        match self {
            Self::Exec => "the process began",
            Self::Parsed => "the configuration is checked",
            Self::VmCreated => "the machine is created",
            Self::KernelLoaded => "the kernel is loaded",
            Self::VcpusReady => "devices and vCPUs are in place",
            Self::FirstEntry => "the guest was entered",
            Self::FirstConsoleByte => "the guest printed to a console",
            Self::InitEntered => "init runs",
            Self::ModulesLoaded => "init has loaded its modules",
            Self::Marker => "init runs its command",
            Self::End => "the machine ended",
        }
    }

    /// What the time between `before` and this instant went to: "load the kernel".
    pub fn work_since(self, before: Self) -> &'static str {
        match self {
            // An init of somebody else's may set no marks, or only the last one.
            Self::ModulesLoaded | Self::Marker if before < Self::InitEntered => "kernel and init",
            // On a quiet boot the kernel prints nothing.
            Self::FirstConsoleByte if before >= Self::Marker => "the command, until it prints",
            Self::FirstConsoleByte if before >= Self::InitEntered => "init, until it prints",
            Self::End if before < Self::Marker => "what the guest did then",
            Self::Exec => "",
            Self::Parsed => "exec, read and check words",
            Self::KernelLoaded => "load kernel and initrd",
            Self::VmCreated => "create the machine",
            Self::VcpusReady => "devices, tables, vCPUs",
            Self::FirstEntry => "start the threads",
            Self::FirstConsoleByte => "kernel, until it prints",
            Self::InitEntered => "kernel, until init runs",
            Self::ModulesLoaded => "init: load modules",
            Self::Marker => "init: prepare the command",
            Self::End => "run the command, power off",
        }
    }
}
