//! Message-signalled vectors over KVM's routing table and irqfds: every interrupt of the machine is one.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devices::interrupt::{MsiSource, MsiVector};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Vm;

/// KVM refuses larger tables (KVM_MAX_IRQ_ROUTES).
const MAX_ROUTES: u32 = 4096;

/// The machine's interrupts: entries of KVM's routing table. The first ones go to the I/O APIC's pins.
#[derive(Clone)]
pub(crate) struct IrqLines {
    vm: Arc<VmFd>,
    routes: Arc<Mutex<Routes>>,
}

#[derive(Default)]
struct Routes {
    /// Messages by GSI; `None` is a vector taken but not yet programmed.
    messages: BTreeMap<u32, Option<(u64, u32)>>,
}

impl Routes {
    fn table(&self) -> io::Result<KvmIrqRouting> {
        let messages = self.messages.iter().filter_map(|(gsi, message)| {
            let (address, data) = (*message)?;
            let mut e = kvm_irq_routing_entry { gsi: *gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
            #[allow(clippy::cast_possible_truncation)] // the two halves of one address
            {
                e.u.msi.address_lo = address as u32;
            }
            e.u.msi.address_hi = (address >> 32) as u32;
            e.u.msi.data = data;
            Some(e)
        });
        let entries: Vec<_> = messages.collect();
        KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(format!("{e:?}")))
    }
}

impl IrqLines {
    pub(crate) fn new(vm: &Vm) -> Self {
        Self { vm: vm.fd.clone(), routes: Arc::default() }
    }
}

fn errno(e: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

impl MsiSource for IrqLines {
    fn vector(&self) -> io::Result<Box<dyn MsiVector>> {
        let event = event()?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = (0..MAX_ROUTES)
            .find(|gsi| !routes.messages.contains_key(gsi))
            .ok_or_else(|| io::Error::other("all 4096 interrupt routes are taken"))?;
        routes.messages.insert(gsi, None);
        let (lines, lent, live) = (self.clone(), OnceCell::new(), AtomicBool::new(false));
        Ok(Box::new(Vector { lines, gsi, event, lent, live }))
    }
}

fn event() -> io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

struct Vector {
    lines: IrqLines,
    gsi: u32,
    event: EventFd,
    /// Another process's.
    lent: OnceCell<EventFd>,
    /// Whether the irqfds are registered.
    live: AtomicBool,
}

impl Vector {
    fn events(&self) -> impl Iterator<Item = &EventFd> {
        std::iter::once(&self.event).chain(self.lent.get())
    }

    fn register(&self, event: &EventFd) -> io::Result<()> {
        self.lines.vm.register_irqfd(event, self.gsi).map_err(errno)
    }

    fn route(&self, message: Option<(u64, u32)>) -> io::Result<()> {
        let mut routes = self.lines.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.messages.insert(self.gsi, message) == Some(message) {
            return Ok(()); // unmasked again with the same message: the table holds it already
        }
        self.lines.vm.set_gsi_routing(&routes.table()?).map_err(errno)
    }
}

impl MsiVector for Vector {
    fn eventfd(&self) -> &EventFd {
        &self.event
    }

    fn lend(&self) -> io::Result<EventFd> {
        if self.lent.get().is_none() {
            let lent = event()?;
            if self.live.load(Ordering::Acquire) {
                self.register(&lent)?;
            }
            // There is none: it was looked for.
            let _ = self.lent.set(lent);
        }
        self.lent.get().ok_or(io::ErrorKind::NotFound)?.try_clone()
    }

    fn unmask(&self, address: u64, data: u32) -> io::Result<()> {
        self.route(Some((address, data)))?;
        if !self.live.swap(true, Ordering::AcqRel) {
            // A signal kept while masked is delivered by the registration itself.
            self.events().try_for_each(|event| self.register(event))?;
        }
        Ok(())
    }

    fn mask(&self) -> io::Result<()> {
        if self.live.swap(false, Ordering::AcqRel) {
            let undo = |event| self.lines.vm.unregister_irqfd(event, self.gsi).map_err(errno);
            // All of them, whatever becomes of the first.
            return self.events().map(undo).fold(Ok(()), Result::and);
        }
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let _ = self.mask();
        // The entry leaves the kernel's table with the next change; nothing raises it any more.
        self.lines.routes.lock().unwrap_or_else(PoisonError::into_inner).messages.remove(&self.gsi);
    }
}
