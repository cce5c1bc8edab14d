//! The only place that talks to KVM: opening it, a machine ([`Vm`]), a processor ([`Vcpu`]), counters.
//!
//! Contract: everything above speaks in this module's types; no KVM structure leaves it but CPUID and
//! register blocks, which `arch` fills in.
#![allow(unsafe_code)] // ioctls and the shared kvm_run page are the point of this module

mod interrupts;
mod kick;
mod requests;
mod stats;
mod vcpu;
mod vm;

use std::io;

use kvm_ioctls::{Cap, Kvm};

pub(crate) use interrupts::IrqLines;
pub(crate) use kick::{Kicker, install_kick_handler};
pub(crate) use requests::{TEARDOWN_REQUESTS, VCPU_REQUESTS, with_memory};
pub(crate) use stats::StatsReader;
pub(crate) use vcpu::{Vcpu, VmExit};
pub(crate) use vm::Vm;

/// What KVM would not do, and what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device node is missing.
    #[error(
        "this host has no /dev/kvm; load the kvm_intel or kvm_amd module, or enable virtualization in the \
         firmware or in the hypervisor above"
    )]
    Missing,
    /// The device node may not be opened.
    #[error("/dev/kvm may not be opened by this user; add the user to the group that owns it (usually kvm)")]
    Permission,
    /// Any other failure to open it.
    #[error("/dev/kvm cannot be opened: {0}")]
    Open(io::Error),
    /// Something too old, or not KVM at all.
    #[error("this host's KVM has no {0}; a kernel of version 5.10 or later has it")]
    Lacks(&'static str),
    /// The guest used memory that the host cannot give it.
    #[error(
        "the guest used memory that the host cannot give it, and cannot be told so: a file that it sees by DAX has become \
         shorter on the host, it wrote to a window for DAX where no file is, or the host has no huge page left"
    )]
    Gone,
    /// A call failed.
    #[error("KVM could not {what}: {source}")]
    Call {
        /// What was being done, as a verb phrase.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl KvmError {
    pub(crate) fn call(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |e| Self::Call { what, source: io::Error::from_raw_os_error(e.errno()) }
    }
}

/// The version of KVM's interface that every kernel since 2.6.22 speaks.
const API_VERSION: i32 = 12;

/// Opens `/dev/kvm` and checks that it is what we need.
pub(crate) fn open() -> Result<Kvm, KvmError> {
    let kvm = Kvm::new().map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
    })?;
    if kvm.get_api_version() != API_VERSION {
        return Err(KvmError::Lacks("stable interface (version 12)"));
    }
    for (cap, name) in [
        (Cap::SplitIrqchip, "in-kernel local APIC (split interrupt controllers)"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::UserMemory, "user memory slots"),
        (Cap::ImmediateExit, "immediate exit"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Lacks(name));
        }
    }
    Ok(kvm)
}
