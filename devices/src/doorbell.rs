//! Doorbells: guest writes that the hypervisor turns into eventfd signals without waking the VMM (ioeventfd).

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// The register that a guest writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// In guest-physical memory, 32 bits wide.
    Memory(u64),
    /// A port, 16 bits wide.
    Port(u16),
}

/// Which guest write rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellAddress {
    /// Where.
    pub register: Register,
    /// Only a write of this value rings, over the register's whole width.
    pub value: u16,
}

/// Undoes a registration when dropped.
pub trait Doorbell: Send {}

/// Where transports register doorbells; the hypervisor implements it.
pub trait DoorbellSource: Send + Sync {
    /// Signals `event` whenever the guest writes as `at` says, until the returned guard is dropped.
    fn register(&self, at: DoorbellAddress, event: &EventFd) -> io::Result<Box<dyn Doorbell>>;
}
