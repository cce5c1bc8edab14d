//! The PC's small devices that a Linux guest still looks for.

pub mod ports;

pub mod ioapic;
