//! How a device asks for attention: a small cloneable value with one verb.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

/// One interrupt of one device.
///
/// Backed by an eventfd that the hypervisor turns into an interrupt by itself (KVM's irqfd), or by a closure
/// where something must happen first (a status bit, a level). Raising never blocks and never fails loudly: a
/// device that cannot be heard has nobody to tell.
#[derive(Clone)]
pub struct Interrupt(Backing);

#[derive(Clone)]
enum Backing {
    Event { ours: Arc<EventFd>, lent: Option<Arc<EventFd>> },
    Call(Arc<dyn Fn() + Send + Sync>),
}

impl Interrupt {
    /// An interrupt that the hypervisor raises when `event` is signalled.
    pub fn from_eventfd(event: EventFd) -> Self {
        Self(Backing::Event { ours: Arc::new(event), lent: None })
    }

    /// The same interrupt, which the hypervisor raises too when `event` is signalled: what [`Interrupt::lent`] gives.
    #[must_use]
    pub fn with_lent(self, event: EventFd) -> Self {
        match self.0 {
            Backing::Event { ours, .. } => Self(Backing::Event { ours, lent: Some(Arc::new(event)) }),
            call => Self(call),
        }
    }

    /// An interrupt that is raised by calling `raise`.
    pub fn from_fn(raise: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Backing::Call(Arc::new(raise)))
    }

    /// An interrupt nobody listens to: for a queue whose driver asked for none.
    pub fn none() -> Self {
        Self::from_fn(|| {})
    }

    /// Raises the interrupt.
    pub fn raise(&self) {
        match &self.0 {
            // EAGAIN means the counter is full, so the interrupt is pending already.
            Backing::Event { ours, .. } => drop(ours.write(1)),
            Backing::Call(raise) => raise(),
        }
    }

    /// The eventfd to hand to the kernel, where there is one.
    pub fn eventfd(&self) -> Option<&EventFd> {
        match &self.0 {
            Backing::Event { ours, .. } => Some(ours),
            Backing::Call(_) => None,
        }
    }

    /// The eventfd to hand to another process, where there is one. Nobody here writes it or reads it: whoever has an
    /// eventfd can fill it and make it blocking for all who have it.
    pub fn lent(&self) -> Option<&EventFd> {
        match &self.0 {
            Backing::Event { lent, .. } => lent.as_deref(),
            Backing::Call(_) => None,
        }
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Backing::Event { ours, .. } => write!(f, "Interrupt(eventfd {})", ours.as_raw_fd()),
            Backing::Call(_) => f.write_str("Interrupt(closure)"),
        }
    }
}

/// An MSI-X vector as the hypervisor sees it: an eventfd with a message behind it that the guest programs.
pub trait MsiVector: Send {
    /// The eventfd that raises the vector. Signals while masked are kept and can be seen by polling it.
    fn eventfd(&self) -> &EventFd;

    /// Another eventfd that raises the vector likewise, for another process: the same one at each call.
    fn lend(&self) -> io::Result<EventFd>;

    /// Routes the vector to the message the guest programmed (PCI 3.0, 6.8.2.7 and 6.8.2.9) and lets signals
    /// through from now on.
    fn unmask(&self, address: u64, data: u32) -> io::Result<()>;

    /// Holds signals back until the next [`MsiVector::unmask`].
    fn mask(&self) -> io::Result<()>;
}

/// Where PCI functions get their vectors from; the hypervisor implements it.
pub trait MsiSource: Send + Sync {
    /// A fresh, masked vector, given back when dropped.
    fn vector(&self) -> io::Result<Box<dyn MsiVector>>;
}
