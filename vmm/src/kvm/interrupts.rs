//! Interrupt lines and MSI-X vectors over KVM's routing table and irqfds.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use devices::addr::Gsi;
use devices::interrupt::{Interrupt, MsiSource, MsiVector};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Vm;

/// Pins of the one I/O APIC; routing entries from here on are message-signalled.
const IOAPIC_PINS: u32 = 24;
/// KVM refuses larger tables (KVM_MAX_IRQ_ROUTES).
const MAX_ROUTES: u32 = 4096;

/// The machine's interrupt lines: pins of the I/O APIC and message-signalled vectors.
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
        let pins = (0..IOAPIC_PINS).map(|pin| {
            let mut e =
                kvm_irq_routing_entry { gsi: pin, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
            e.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            e.u.irqchip.pin = pin;
            e
        });
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
        let entries: Vec<_> = pins.chain(messages).collect();
        KvmIrqRouting::from_entries(&entries).map_err(|e| io::Error::other(format!("{e:?}")))
    }
}

impl IrqLines {
    pub(crate) fn new(vm: &Vm) -> Self {
        Self { vm: vm.fd.clone(), routes: Arc::default() }
    }

    /// An edge-triggered interrupt on I/O APIC pin `gsi`.
    pub(crate) fn edge(&self, gsi: Gsi) -> io::Result<Interrupt> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        self.vm.register_irqfd(&event, gsi.0).map_err(errno)?;
        Ok(Interrupt::from_eventfd(event))
    }
}

fn errno(e: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

impl MsiSource for IrqLines {
    fn vector(&self) -> io::Result<Box<dyn MsiVector>> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = (IOAPIC_PINS..MAX_ROUTES)
            .find(|gsi| !routes.messages.contains_key(gsi))
            .ok_or_else(|| io::Error::other("all 4096 interrupt routes are taken"))?;
        routes.messages.insert(gsi, None);
        Ok(Box::new(Vector { lines: self.clone(), gsi, event, live: AtomicBool::new(false) }))
    }
}

struct Vector {
    lines: IrqLines,
    gsi: u32,
    event: EventFd,
    /// Whether the irqfd is registered.
    live: AtomicBool,
}

impl Vector {
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

    fn unmask(&self, address: u64, data: u32) -> io::Result<()> {
        self.route(Some((address, data)))?;
        if !self.live.swap(true, Ordering::AcqRel) {
            // A signal kept while masked is delivered by the registration itself.
            self.lines.vm.register_irqfd(&self.event, self.gsi).map_err(errno)?;
        }
        Ok(())
    }

    fn mask(&self) -> io::Result<()> {
        if self.live.swap(false, Ordering::AcqRel) {
            self.lines.vm.unregister_irqfd(&self.event, self.gsi).map_err(errno)?;
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
