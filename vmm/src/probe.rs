//! Whether this host's KVM can run a Linux guest, found by running code on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress};

use crate::config::MemoryConfig;
use crate::kvm::{self, Kicker, KvmError, Vm, VmExit, install_kick_handler};
use crate::ram::{self, RamError};

/// Why a host is no place for a Linux guest.
#[derive(Debug, thiserror::Error)]
pub enum Verdict {
    /// There is no usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is no memory for the trial.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// It is there, but far too slow.
    #[error("it needs more than {0:?} for {1} loops, so it interprets them")]
    Slow(Duration, u32),
    /// It ended the trial in an unexpected way.
    #[error("a guest of four instructions ended with {0}")]
    Strange(String),
}

/// Where the code lies: a page of its own, in the first 64 KiB that real mode reaches.
const CODE: u64 = 0x1000;

/// Has a guest count down from `loops` in ring 0 and halt, within `limit`.
pub fn count(loops: u32, limit: Duration) -> Result<(), Verdict> {
    let kvm = kvm::open()?;
    let vm = Vm::new(&kvm)?;
    let config = MemoryConfig { size: 2 << 20, ..MemoryConfig::default() };
    let (ram, _mapping) = ram::map(&config)?;
    vm.map_ram(&ram)?;
    vm.set_tss_address(crate::arch::layout::TSS)?;
    let mut code = vec![0x66, 0xb9]; // mov ecx, loops
    code.extend(loops.to_le_bytes());
    code.extend([0x66, 0x49, 0x75, 0xfc, 0xf4]); // dec ecx; jnz -4; hlt
    ram.write_slice(&code, GuestAddress(CODE)).map_err(|_| RamError::Layout(config.size))?;
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.edit_sregs(|s| (s.cs.base, s.cs.selector) = (0, 0))?;
    vcpu.set_regs(&kvm_bindings::kvm_regs { rip: CODE, rflags: 2, ..Default::default() })?;
    install_kick_handler()?;
    vcpu.bind_to_thread();
    let (me, done) = (Kicker::this_thread(), Arc::new(AtomicBool::new(false)));
    let seen = done.clone();
    let watchdog = std::thread::spawn(move || {
        let end = Instant::now() + limit;
        while !seen.load(Ordering::Acquire) {
            if Instant::now() >= end {
                me.kick();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let outcome = vcpu.run().map_err(Verdict::from).and_then(|exited| {
        if !exited {
            return Err(Verdict::Slow(limit, loops));
        }
        match vcpu.exit() {
            VmExit::Halted => Ok(()),
            other => Err(Verdict::Strange(format!("{other:?}"))),
        }
    });
    done.store(true, Ordering::Release);
    // It cannot panic; were it to, the verdict stands all the same.
    let _ = watchdog.join();
    outcome
}
