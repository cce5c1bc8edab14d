//! Doorbells: guest writes that the hypervisor turns into eventfd signals without waking the VMM (ioeventfd).

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// Which guest write rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellAddress {
    /// Guest-physical address of the register.
    pub mmio: u64,
    /// Width of the write in bytes (1, 2, 4 or 8), or 0 for any width.
    pub len: u32,
    /// Only a write of this value rings; `None`: every write does.
    pub value: Option<u64>,
}

/// Undoes a registration when dropped.
pub trait Doorbell: Send {}

/// Where transports register doorbells; the hypervisor implements it.
pub trait DoorbellSource: Send + Sync {
    /// Signals `event` whenever the guest writes as `at` says, until the returned guard is dropped.
    fn register(&self, at: DoorbellAddress, event: &EventFd) -> io::Result<Box<dyn Doorbell>>;
}
