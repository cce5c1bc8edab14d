//! Rules about the host.

use std::fs;

use nix::sys::sysinfo::sysinfo;

use crate::config::VmConfig;
use crate::kvm::{self, KvmError};

/// What the host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostFault {
    /// Not enough memory, even if nothing else ran.
    #[error("the machine's memory of {wanted} MiB is more than the host's {total} MiB; give it less")]
    Memory {
        /// Asked for, in MiB.
        wanted: u64,
        /// The host's, in MiB.
        total: u64,
    },
    /// Not enough huge pages set aside.
    #[error(
        "the machine needs {wanted} huge pages of 2 MiB and the host has {free} free; write {wanted} or more to \
         /proc/sys/vm/nr_hugepages, or leave hugepages=on out"
    )]
    HugePages {
        /// Pages needed.
        wanted: u64,
        /// Pages free.
        free: u64,
    },
    /// No usable KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

type Rule = fn(&VmConfig) -> Option<HostFault>;

/// All rules, in the order in which their faults are told.
pub(super) const RULES: &[Rule] = &[memory_is_there, huge_pages_are_free];

/// Opens `/dev/kvm`, asks whether it has what a machine needs, and closes it.
///
/// # Errors
/// What is missing and how to get it.
pub fn kvm() -> Result<(), KvmError> {
    kvm::open().map(drop)
}

fn memory_is_there(config: &VmConfig) -> Option<HostFault> {
    // A host that does not tell is believed to have enough; mapping will show.
    memory_fits(config.memory.size, sysinfo().ok()?.ram_total())
}

fn memory_fits(wanted: u64, total: u64) -> Option<HostFault> {
    let (mib, total_mib) = (wanted.div_ceil(1 << 20), total >> 20);
    (wanted > total).then_some(HostFault::Memory { wanted: mib, total: total_mib })
}

const FREE_HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

fn huge_pages_are_free(config: &VmConfig) -> Option<HostFault> {
    if !config.memory.hugepages {
        return None;
    }
    // A kernel without huge pages has no such file, and none free.
    let free = fs::read_to_string(FREE_HUGE_PAGES).ok().and_then(|text| text.trim().parse().ok());
    huge_pages_fit(config.memory.size, free.unwrap_or(0))
}

fn huge_pages_fit(size: u64, free: u64) -> Option<HostFault> {
    let wanted = size.div_ceil(2 << 20);
    (wanted > free).then_some(HostFault::HugePages { wanted, free })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_the_host_has_is_refused() {
        assert!(memory_fits(1 << 30, 1 << 30).is_none());
        assert_eq!(
            memory_fits((8 << 30) + 4096, 8 << 30).map(|f| f.to_string()).unwrap(),
            "the machine's memory of 8193 MiB is more than the host's 8192 MiB; give it less"
        );
        let mut config = VmConfig::default();
        config.memory.size = 1 << 60;
        assert!(memory_is_there(&config).is_some());
        assert!(memory_is_there(&VmConfig::default()).is_none());
    }

    #[test]
    fn too_few_free_huge_pages_are_refused_with_the_number_needed() {
        assert!(huge_pages_fit(64 << 20, 32).is_none());
        let text = huge_pages_fit(64 << 20, 31).unwrap().to_string();
        assert!(text.contains("needs 32 huge pages") && text.contains("31 free"), "{text}");
    }

    #[test]
    fn huge_pages_are_nobodys_business_without_the_flag() {
        assert!(huge_pages_are_free(&VmConfig::default()).is_none());
    }
}
