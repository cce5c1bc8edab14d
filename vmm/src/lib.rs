//! A virtual machine monitor for Linux sandboxes: library and binary.

mod acpi;
mod arch;
mod autopsy;
mod boot;
mod builder;
pub mod config;
mod error;
pub mod exit;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod grammar;
mod inherit;
mod kvm;
mod machine;
mod plug;
pub mod probe;
mod ram;
mod registry;
pub mod report;
mod running;
mod seccomp;
mod slots;
mod smbios;
mod supervisor;
mod terminal;
pub mod validate;
mod vcpu;

pub use boot::BootError;
pub use builder::{BuildError, VmBuilder};
pub use config::VmConfig;
pub use error::{Error, sentence};
pub use exit::Exit;
pub use inherit::InheritError;
pub use kvm::KvmError;
pub use machine::Machine;
pub use ram::RamError;
pub use running::{Failure, RunningVm, VmHandle};
pub use supervisor::Signals;
pub use terminal::restore as restore_terminal;
