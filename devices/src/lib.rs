//! The virtio kernel and the small devices of Kiwi VMM: buses, interrupts, transports, queues.
//!
//! This crate knows no hypervisor and no policy. What a device needs from the machine comes in as values:
//! guest memory ([`memory::GuestRam`]), interrupts ([`interrupt::Interrupt`]) and doorbells
//! ([`doorbell::DoorbellSource`]). What a machine needs from a device is one of two traits: [`bus::BusDevice`]
//! for registers, [`virtio::VirtioDevice`] for anything with queues.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod addr;
pub mod bus;
pub mod chardev;
pub mod confine;
pub mod doorbell;
pub mod interrupt;
pub mod legacy;
pub mod memory;
pub mod pci;
pub mod rate;
pub mod shared_memory;
pub mod size;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod throttle;
pub mod virtio;
pub mod worker;
