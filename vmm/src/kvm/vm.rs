//! One virtual machine: memory slots, interrupt controllers, doorbells.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use devices::doorbell::{Doorbell, DoorbellAddress, DoorbellSource, Register};
use devices::shared_memory::{Region, RegionSource, Shown};
use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_CAP_SPLIT_IRQCHIP, KVM_PMU_CAP_DISABLE, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, Vcpu};

/// A KVM virtual machine. Cheap to clone; the machine goes when the last clone and the last vCPU have gone.
#[derive(Clone)]
pub(crate) struct Vm {
    pub(super) fd: Arc<VmFd>,
    /// Which slots are in use, by number.
    slots: Arc<Mutex<Vec<bool>>>,
}

impl Vm {
    /// Creates an empty machine.
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, KvmError> {
        let fd = loop {
            match kvm.create_vm() {
                // The kernel gives up on a signal; nothing has happened yet.
                Err(e) if e.errno() == libc::EINTR => {}
                other => break other.map_err(KvmError::call("create a virtual machine"))?,
            }
        };
        Ok(Self { fd: Arc::new(fd), slots: Arc::default() })
    }

    /// Makes every region of `ram` a memory slot.
    pub(crate) fn map_ram(&self, ram: &GuestMemoryMmap) -> Result<(), KvmError> {
        for region in ram.iter() {
            let host = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|_| KvmError::Lacks("host mapping of guest memory"))?;
            self.add_slot(kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host as u64,
            })
            .map_err(KvmError::call("map guest memory"))?;
        }
        Ok(())
    }

    /// Makes `region` a slot; its number is found here.
    fn add_slot(&self, mut region: kvm_userspace_memory_region) -> Result<u32, kvm_ioctls::Error> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = slots.iter().position(|used| !used).unwrap_or(slots.len());
        region.slot = u32::try_from(free).map_err(|_| kvm_ioctls::Error::new(libc::ENOSPC))?;
        // SAFETY: the region comes from a live mapping, of guest memory, which the machine keeps until after the last vCPU
        // has stopped, or of a device's region, which whoever shows it keeps until the slot is gone; the guest can only
        // reach the bytes of that mapping.
        unsafe { self.fd.set_user_memory_region(region) }?;
        if free == slots.len() {
            slots.push(false);
        }
        slots.iter_mut().skip(free).take(1).for_each(|used| *used = true);
        Ok(region.slot)
    }

    fn remove_slot(&self, slot: u32) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a length of 0 takes the slot away; the guest reaches less than before.
        let gone = unsafe {
            self.fd.set_user_memory_region(kvm_userspace_memory_region { slot, ..Default::default() })
        };
        match (gone, usize::try_from(slot).ok().and_then(|slot| slots.get_mut(slot))) {
            (Ok(()), Some(used)) => *used = false,
            // It stays in use: another one of its number would be refused, or worse, taken.
            (gone, _) => tracing::warn!("a memory slot stays: {gone:?}"),
        }
    }

    /// Has KVM emulate a local APIC for every later vCPU, and nothing else: `pins` routes are ours to give
    /// meaning to, as an I/O APIC of our own.
    pub(crate) fn split_irqchip(&self, pins: u8) -> Result<(), KvmError> {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [u64::from(pins), 0, 0, 0],
            ..Default::default()
        };
        self.fd.enable_cap(&cap).map_err(KvmError::call("split the interrupt controllers"))
    }

    /// Gives later vCPUs no performance counters. CPUID alone can't say so to an AMD guest, which expects some. Hosts
    /// before Linux 5.18 can't take them away; there the guest keeps what CPUID has not hidden.
    pub(crate) fn forbid_counters(&self) {
        let cap = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            args: [u64::from(KVM_PMU_CAP_DISABLE), 0, 0, 0],
            ..Default::default()
        };
        if let Err(why) = self.fd.enable_cap(&cap) {
            tracing::debug!("the guest may keep performance counters: {why}");
        }
    }

    /// Where Intel hosts keep the pages they need for real mode; ignored by others.
    pub(crate) fn set_tss_address(&self, address: usize) -> Result<(), KvmError> {
        self.fd.set_tss_address(address).map_err(KvmError::call("set the address of the task state segment"))
    }

    /// Lets the kernel collect guest writes to the `len` bytes at `at` until the next exit. For index
    /// registers, whose writes mean nothing until another register is touched. False: this host cannot.
    pub(crate) fn coalesce(&self, at: IoEventAddress, len: u32) -> bool {
        let cap = match at {
            IoEventAddress::Pio(_) => Cap::CoalescedPio,
            IoEventAddress::Mmio(_) => Cap::CoalescedMmio,
        };
        self.fd.check_extension(cap) && self.fd.register_coalesced_mmio(at, len).is_ok()
    }

    /// Creates processor `id`, which is also its APIC id.
    pub(crate) fn create_vcpu(&self, id: u8) -> Result<Vcpu, KvmError> {
        let fd = self.fd.create_vcpu(u64::from(id)).map_err(KvmError::call("create a vCPU"))?;
        Ok(Vcpu::new(fd, id))
    }
}

/// A region that the guest sees. It keeps it, so that what the slot points to is there as long as the slot.
struct Slot {
    vm: Vm,
    number: u32,
    _region: Arc<Region>,
}

impl Shown for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        self.vm.remove_slot(self.number);
    }
}

impl RegionSource for Vm {
    fn show(&self, at: u64, region: &Arc<Region>) -> io::Result<Box<dyn Shown>> {
        let slot = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: at,
            memory_size: region.len(),
            userspace_addr: region.addresses().start,
        };
        let number = self.add_slot(slot).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Ok(Box::new(Slot { vm: self.clone(), number, _region: region.clone() }))
    }
}

struct IoEvent {
    vm: Arc<VmFd>,
    event: EventFd,
    at: DoorbellAddress,
}

impl Doorbell for IoEvent {}

impl Drop for IoEvent {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and the machine's end undoes the registration anyway.
        let _ = ioevent(&self.vm, &self.event, self.at, false);
    }
}

fn ioevent(vm: &VmFd, event: &EventFd, at: DoorbellAddress, add: bool) -> Result<(), kvm_ioctls::Error> {
    let DoorbellAddress { register, value } = at;
    // The value's type says how wide the write is.
    match (register, add) {
        (Register::Memory(at), true) => {
            vm.register_ioevent(event, &IoEventAddress::Mmio(at), u32::from(value))
        }
        (Register::Memory(at), false) => {
            vm.unregister_ioevent(event, &IoEventAddress::Mmio(at), u32::from(value))
        }
        (Register::Port(at), true) => vm.register_ioevent(event, &IoEventAddress::Pio(at.into()), value),
        (Register::Port(at), false) => vm.unregister_ioevent(event, &IoEventAddress::Pio(at.into()), value),
    }
}

impl DoorbellSource for Vm {
    fn register(&self, at: DoorbellAddress, event: &EventFd) -> io::Result<Box<dyn Doorbell>> {
        let event = event.try_clone()?;
        ioevent(&self.fd, &event, at, true).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Ok(Box::new(IoEvent { vm: self.fd.clone(), event, at }))
    }
}
