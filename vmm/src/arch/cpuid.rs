//! What the guest's CPUID says: the host's processor as KVM virtualizes it, less what a sandbox has no use
//! for, as one socket of N cores.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const VMX: u32 = 1 << 5;
const MONITOR: u32 = 1 << 3;
const PDCM: u32 = 1 << 15;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX.
const HTT: u32 = 1 << 28;
const MTRR: u32 = 1 << 12;
/// Leaf 0x8000_0001, ECX.
const SVM: u32 = 1 << 2;
const CMP_LEGACY: u32 = 1 << 1;
const PERFCTR_CORE: u32 = 1 << 23;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// Leaf 7, EDX.
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// Leaf 0, EBX: how AMD's and Hygon's names begin.
const AMD_LIKE: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// What [`filter`] needs to know besides the host's leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Processors of the machine.
    pub(crate) cpus: u8,
    /// Whether KVM emulates the TSC-deadline timer.
    pub(crate) tsc_deadline: bool,
    /// The guest's TSC frequency in kHz, where known.
    pub(crate) tsc_khz: Option<u32>,
}

/// The table of processor `id`, from KVM's supported leaves.
pub(crate) fn filter(supported: &CpuId, id: u8, facts: Facts) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<_> = supported.as_slice().to_vec();
    // Leaves that describe this host's topology are written anew below.
    entries.retain(|e| !matches!(e.function, 0xb | 0x1f | 0x8000_001e));
    for e in &mut entries {
        edit(e, id, facts);
    }
    let has = |entries: &[kvm_cpuid_entry2], function| entries.iter().any(|e| e.function == function);
    let amd = entries.iter().any(|e| e.function == 0 && AMD_LIKE.contains(&e.ebx));
    if amd {
        // KVM offers Intel's register IA32_ARCH_CAPABILITIES on AMD hosts too, where no processor has it.
        let leaf = entries.iter_mut().find(|e| (e.function, e.index) == (7, 0));
        leaf.into_iter().for_each(|e| e.edx &= !ARCH_CAPABILITIES);
    }
    entries.extend(topology(0xb, id, facts.cpus));
    if let Some(khz) = facts.tsc_khz
        && !has(&entries, 0x15)
        && !amd
    {
        entries.push(tsc_leaf(khz));
    }
    if let Some(max) = entries.iter_mut().find(|e| e.function == 0) {
        max.eax = max.eax.max(0xb);
    }
    CpuId::from_entries(&entries)
}

fn edit(e: &mut kvm_cpuid_entry2, id: u8, facts: Facts) {
    let cpus = u32::from(facts.cpus);
    match e.function {
        1 => {
            e.ecx &= !(VMX | MONITOR | PDCM | TSC_DEADLINE);
            e.ecx |= X2APIC | HYPERVISOR | if facts.tsc_deadline { TSC_DEADLINE } else { 0 };
            // Bits 31-24 the APIC id, 23-16 how many ids a socket spans; 15-8 the cache line in 8-byte words.
            e.ebx = (e.ebx & 0xffff) | u32::from(id) << 24 | cpus.next_power_of_two() << 16;
            // All memory is write-back RAM of the host, so there is nothing for MTRRs to tell; a kernel that sees
            // them reads and writes some ninety registers, each an exit.
            e.edx &= !MTRR;
            e.edx = if cpus > 1 { e.edx | HTT } else { e.edx & !HTT };
        }
        // Cache parameters: level 1 and 2 are a core's own, the last level is the socket's.
        4 | 0x8000_001d => {
            let level = e.eax >> 5 & 7;
            let sharing = if level < 3 { 1 } else { cpus.next_power_of_two() };
            e.eax = (e.eax & 0x3fff) | (sharing - 1) << 14;
            if e.function == 4 {
                e.eax |= (cpus.next_power_of_two() - 1) << 26;
            }
        }
        // No performance monitoring: it costs boot time and leaks the host.
        0xa => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        0x8000_0001 => {
            e.ecx &= !(SVM | PERFCTR_CORE | TOPOLOGY_EXTENSIONS);
            e.edx &= !MTRR; // AMD repeats the bits of leaf 1 here
            e.ecx = if cpus > 1 { e.ecx | CMP_LEGACY } else { e.ecx & !CMP_LEGACY };
        }
        // Core count and the width of the APIC id field.
        0x8000_0008 => {
            e.ecx = (e.ecx & !0xf0ff) | (cpus.next_power_of_two().trailing_zeros() << 12) | (cpus - 1)
        }
        0x8000_000a => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

/// Extended topology (Intel SDM, CPUID leaf 0BH): one thread a core, then the cores of the socket.
fn topology(function: u32, id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    const SIGNIFICANT_INDEX: u32 = 1;
    let bits = u32::from(cpus).next_power_of_two().trailing_zeros();
    let level = |index, kind: u32, shift, count| kvm_cpuid_entry2 {
        function,
        index,
        flags: SIGNIFICANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: u32::from(id),
        ..Default::default()
    };
    [level(0, 1, 0, 1), level(1, 2, bits, u32::from(cpus)), level(2, 0, 0, 0)]
}

/// Leaf 15H: TSC = 1 MHz crystal times kHz over 1000, so that nothing is calibrated.
fn tsc_leaf(khz: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function: 0x15, eax: 1000, ebx: khz, ecx: 1_000_000, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0x1c, 0, 0, 0),
            leaf(1, 0, 0x0710_0800, !0, !0),
            leaf(4, 0xfc00_4121, 0, 0, 0),
            leaf(0xa, 7, 7, 7, 7),
            leaf(0xb, 9, 9, 9, 9),
            leaf(0x8000_0001, 0, 0, !0, 0),
            leaf(0x8000_0008, 0, 0, !0, 0),
        ])
        .expect("a table")
    }

    fn get(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table.as_slice().iter().find(|e| e.function == function && e.index == index).expect("the leaf")
    }

    fn facts(cpus: u8) -> Facts {
        Facts { cpus, tsc_deadline: true, tsc_khz: Some(2_300_000) }
    }

    #[test]
    fn every_processor_has_its_own_apic_id_in_one_socket() {
        for id in 0..6 {
            let t = filter(&host(), id, facts(6)).expect("filtered");
            assert_eq!(get(&t, 1, 0).ebx >> 24, u32::from(id));
            assert_eq!(get(&t, 1, 0).ebx >> 16 & 0xff, 8);
            assert_eq!(get(&t, 0xb, 1).ebx, 6);
            assert_eq!(get(&t, 0xb, 1).eax, 3);
            assert_eq!(get(&t, 0xb, 0).edx, u32::from(id));
        }
    }

    #[test]
    fn nested_virtualization_monitor_and_counters_are_hidden() {
        let t = filter(&host(), 0, facts(1)).expect("filtered");
        assert_eq!(get(&t, 1, 0).ecx & (VMX | MONITOR | PDCM), 0);
        assert_eq!(get(&t, 0x8000_0001, 0).ecx & (SVM | PERFCTR_CORE), 0);
        assert_eq!(get(&t, 0xa, 0).eax, 0);
        assert_eq!(get(&t, 1, 0).edx & HTT, 0);
    }

    #[test]
    fn an_amd_guest_has_no_register_of_intels() {
        for (name, has) in [(b"Genu", true), (b"Auth", false), (b"Hygo", false)] {
            let mut entries = host().as_slice().to_vec();
            entries[0].ebx = u32::from_le_bytes(*name);
            entries.push(kvm_cpuid_entry2 { function: 7, edx: !0, ..Default::default() });
            let table = filter(&CpuId::from_entries(&entries).expect("a table"), 0, facts(1));
            let leaf = get(&table.expect("filtered"), 7, 0);
            assert_eq!(leaf.edx & ARCH_CAPABILITIES != 0, has);
            assert_eq!(leaf.edx | ARCH_CAPABILITIES, !0);
        }
    }

    #[test]
    fn the_deadline_timer_is_offered_only_where_kvm_has_it() {
        let on = filter(&host(), 0, facts(1)).expect("filtered");
        let off = filter(&host(), 0, Facts { tsc_deadline: false, ..facts(1) }).expect("filtered");
        assert_ne!(get(&on, 1, 0).ecx & TSC_DEADLINE, 0);
        assert_eq!(get(&off, 1, 0).ecx & TSC_DEADLINE, 0);
    }

    #[test]
    fn the_clock_frequency_is_told_where_known() {
        let t = filter(&host(), 0, facts(1)).expect("filtered");
        let leaf = get(&t, 0x15, 0);
        assert_eq!(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax), 2_300_000_000);
    }
}
