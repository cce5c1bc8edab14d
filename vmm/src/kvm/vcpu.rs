//! One virtual processor: registers in, exits out.

use kvm_bindings::{
    CpuId, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_IO, KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, Msrs, kvm_regs, kvm_sregs,
};
use kvm_ioctls::VcpuFd;

use super::{KvmError, StatsReader};

/// Why a vCPU came back to us.
#[derive(Debug)]
pub(crate) enum VmExit<'a> {
    /// The guest reads `data.len() / size` times `size` bytes from a port.
    PortIn { port: u16, size: usize, data: &'a mut [u8] },
    /// The guest writes likewise.
    PortOut { port: u16, size: usize, data: &'a [u8] },
    /// The guest reads memory-mapped registers.
    MmioRead { addr: u64, data: &'a mut [u8] },
    /// The guest writes memory-mapped registers.
    MmioWrite { addr: u64, data: &'a [u8] },
    /// The processor halted for good (only without an in-kernel APIC).
    Halted,
    /// Triple fault, or a machine-level shutdown.
    TripleFault,
    /// KVM could not go on: its reason code and sub-code.
    Failed { reason: u32, detail: u64 },
}

/// A guest's write that the kernel kept for us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoalescedWrite {
    /// To a port, or to memory-mapped registers.
    pub(crate) port: bool,
    pub(crate) addr: u64,
    data: [u8; 8],
    len: usize,
}

impl CoalescedWrite {
    pub(crate) fn data(&self) -> &[u8] {
        self.data.get(..self.len).unwrap_or_default()
    }
}

/// A processor that has not been given to a thread yet, or is owned by it.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    id: u8,
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        super::kick::unbind();
    }
}

impl Vcpu {
    pub(super) fn new(fd: VcpuFd, id: u8) -> Self {
        Self { fd, id }
    }

    /// Number of the processor, from 0; also its APIC id.
    pub(crate) fn id(&self) -> u8 {
        self.id
    }

    /// Sets what the CPUID instruction answers.
    pub(crate) fn set_cpuid(&self, cpuid: &CpuId) -> Result<(), KvmError> {
        self.fd.set_cpuid2(cpuid).map_err(KvmError::call("set the vCPU's CPUID"))
    }

    /// Sets model-specific registers; which one was refused is told by its position.
    pub(crate) fn set_msrs(&self, msrs: &Msrs) -> Result<(), KvmError> {
        let set = self.fd.set_msrs(msrs).map_err(KvmError::call("set model-specific registers"))?;
        if set < msrs.as_slice().len() {
            return Err(KvmError::Lacks("model-specific register that Linux needs at boot"));
        }
        Ok(())
    }

    /// Lets `change` edit the segment, control and APIC base registers.
    pub(crate) fn edit_sregs(&self, change: impl FnOnce(&mut kvm_sregs)) -> Result<(), KvmError> {
        let mut sregs = self.fd.get_sregs().map_err(KvmError::call("read the vCPU's system registers"))?;
        change(&mut sregs);
        self.fd.set_sregs(&sregs).map_err(KvmError::call("set the vCPU's system registers"))
    }

    /// Sets the general registers.
    pub(crate) fn set_regs(&self, regs: &kvm_regs) -> Result<(), KvmError> {
        self.fd.set_regs(regs).map_err(KvmError::call("set the vCPU's registers"))
    }

    /// The instruction pointer, for a report; 0 when it cannot be read.
    pub(crate) fn rip(&self) -> u64 {
        self.fd.get_regs().map_or(0, |r| r.rip)
    }

    /// The processor's clock in kHz, where the host says.
    pub(crate) fn tsc_khz(&self) -> Option<u32> {
        self.fd.get_tsc_khz().ok().filter(|khz| *khz > 0)
    }

    /// A reader of this processor's counters; `None` where the host has none (before Linux 5.14).
    pub(crate) fn stats(&self) -> Option<StatsReader> {
        StatsReader::open(&self.fd)
    }

    /// Tells the kick handler that this thread runs this vCPU.
    pub(crate) fn bind_to_thread(&mut self) {
        super::kick::bind(&mut self.fd.get_kvm_run().immediate_exit);
    }

    /// Takes the next collected write, see [`super::Vm::coalesce`].
    pub(crate) fn next_coalesced(&mut self) -> Option<CoalescedWrite> {
        let entry = self.fd.coalesced_mmio_read().ok().flatten()?;
        // SAFETY: both members of the union are the same 32-bit flag.
        let port = unsafe { entry.__bindgen_anon_1.pio } != 0;
        let len = (entry.len as usize).min(entry.data.len());
        Some(CoalescedWrite { port, addr: entry.phys_addr, data: entry.data, len })
    }

    /// Maps the ring of collected writes; false where the host has none.
    pub(crate) fn map_coalesced(&mut self) -> bool {
        self.fd.map_coalesced_mmio_ring().is_ok()
    }

    /// Runs the guest until something needs us; false: only a kick or a signal did.
    pub(crate) fn run(&mut self) -> Result<bool, KvmError> {
        // kvm-ioctls decodes exits too, but hides the element size of string I/O, which a device must see.
        match self.fd.run() {
            Ok(_) => Ok(true),
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {
                self.fd.set_kvm_immediate_exit(0);
                Ok(false)
            }
            Err(e) if e.errno() == libc::EFAULT => Err(KvmError::Gone),
            Err(e) => Err(KvmError::call("run the vCPU")(e)),
        }
    }

    /// What the last [`Vcpu::run`] came back for.
    pub(crate) fn exit(&mut self) -> VmExit<'_> {
        let run = self.fd.get_kvm_run();
        match run.exit_reason {
            KVM_EXIT_IO => decode_io(run),
            KVM_EXIT_MMIO => {
                // SAFETY: exit_reason says that the union holds `mmio`.
                let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
                let len = (mmio.len as usize).min(mmio.data.len());
                let (addr, data) = (mmio.phys_addr, &mut mmio.data[..len]);
                if mmio.is_write != 0 {
                    VmExit::MmioWrite { addr, data }
                } else {
                    VmExit::MmioRead { addr, data }
                }
            }
            KVM_EXIT_HLT => VmExit::Halted,
            KVM_EXIT_SHUTDOWN | KVM_EXIT_SYSTEM_EVENT => VmExit::TripleFault,
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: exit_reason says that the union holds `fail_entry`.
                let detail = unsafe { run.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason };
                VmExit::Failed { reason: KVM_EXIT_FAIL_ENTRY, detail }
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: exit_reason says that the union holds `internal`.
                let detail = unsafe { run.__bindgen_anon_1.internal.suberror };
                VmExit::Failed { reason: KVM_EXIT_INTERNAL_ERROR, detail: u64::from(detail) }
            }
            reason => VmExit::Failed { reason, detail: 0 },
        }
    }
}

fn decode_io(run: &mut kvm_bindings::kvm_run) -> VmExit<'_> {
    // SAFETY: exit_reason says that the union holds `io`.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let len = size * io.count as usize;
    let start = std::ptr::from_mut(run).cast::<u8>();
    // SAFETY: the kernel puts `count` elements of `size` bytes at `data_offset` from the start of the mapped
    // kvm_run area, wholly inside it; the slice borrows `run`, so it ends before the next KVM_RUN.
    let data = unsafe {
        #[allow(clippy::cast_possible_truncation)] // an offset inside one mapping of a few pages
        std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), len)
    };
    if u32::from(io.direction) == KVM_EXIT_IO_OUT {
        VmExit::PortOut { port: io.port, size, data }
    } else {
        VmExit::PortIn { port: io.port, size, data }
    }
}
