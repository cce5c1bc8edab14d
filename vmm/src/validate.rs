//! Every rule a machine's configuration must keep, one function a rule, checked before anything is built.
//!
//! 1. [`check`] asks the rules about the configuration alone; all it breaks are reported together.
//! 2. If it breaks none, the boot files are looked at; then the host. A later phase is not asked while an earlier
//!    one has faults, so the exit status names the first thing to mend.
//!
//! Contract: nothing is created, no file is waited for, nothing is read but a file's metadata. The host may change
//! afterwards, so whoever opens a file or maps memory still answers for what it finds.

mod disk;
mod files;
mod fs;
mod host;
mod machine;
mod net;

use std::fmt;

use crate::config::VmConfig;

pub use disk::DiskFault;
pub use files::FileFault;
pub use fs::FsFault;
pub use host::{HostFault, kvm};
pub use machine::ConfigFault;
pub use net::NetFault;

/// All the faults of one phase.
#[derive(Debug)]
pub enum Invalid {
    /// The configuration contradicts itself or a limit.
    Config(Vec<ConfigFault>),
    /// A file to boot from is no such file.
    Files(Vec<FileFault>),
    /// This host cannot carry such a machine.
    Host(Vec<HostFault>),
}

/// Checks everything that can be known of `config` without creating a machine, KVM apart (see [`kvm`]).
///
/// # Errors
/// All faults of the first phase that has any.
pub fn check(config: &VmConfig) -> Result<(), Invalid> {
    rules(config)?;
    none_of(files::faults(config), Invalid::Files)?;
    none_of(host::RULES.iter().filter_map(|rule| rule(config)).collect(), Invalid::Host)
}

/// The first phase of [`check`] alone: the configuration by itself, without a look at the host.
///
/// # Errors
/// All faults of the configuration.
pub fn rules(config: &VmConfig) -> Result<(), Invalid> {
    none_of(machine::RULES.iter().filter_map(|rule| rule(config)).collect(), Invalid::Config)
}

fn none_of<T>(faults: Vec<T>, or: fn(Vec<T>) -> Invalid) -> Result<(), Invalid> {
    if faults.is_empty() { Ok(()) } else { Err(or(faults)) }
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    /// One fault a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(faults) => lines(f, faults),
            Self::Files(faults) => lines(f, faults),
            Self::Host(faults) => lines(f, faults),
        }
    }
}

fn lines(f: &mut fmt::Formatter<'_>, faults: &[impl fmt::Display]) -> fmt::Result {
    for (i, fault) in faults.iter().enumerate() {
        let end = if i == 0 { "" } else { "\n" };
        write!(f, "{end}{fault}")?;
    }
    Ok(())
}
