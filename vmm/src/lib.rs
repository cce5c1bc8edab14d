//! A virtual machine monitor for Linux sandboxes: library and binary.

pub mod config;
pub mod exit;

mod acpi;
mod arch;
mod boot;
mod kvm;
mod ram;
