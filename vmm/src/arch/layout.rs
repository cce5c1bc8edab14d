//! Where things are in the guest's physical address space and port space.
//!
//! ```text
//! 0x0000_0000_0000  low RAM: boot structures below 1 MiB, the kernel from 16 MiB on
//! 0x0000_c000_0000  the 32-bit hole: PCI window, ECAM, virtio-mmio, I/O APIC, local APICs
//! 0x0001_0000_0000  the rest of RAM
//! above RAM         the 64-bit PCI window
//! ```

/// RAM below 4 GiB ends here at the latest.
pub(crate) const HOLE_START: u64 = 0xc000_0000;
/// RAM goes on here.
pub(crate) const HOLE_END: u64 = 0x1_0000_0000;

/// 32-bit PCI memory window.
pub(crate) const PCI32: (u64, u64) = (0xc000_0000, 0x2000_0000);
/// PCI window of ports: the first, and how many.
pub(crate) const PCI_PORTS: (u16, u16) = (0xc000, 0x1000);
/// PCI Express configuration space (ECAM) of bus 0: 32 devices, 8 functions, 4 KiB each.
pub(crate) const ECAM: (u64, u64) = (0xe000_0000, 0x10_0000);
/// virtio-mmio register blocks, [`VIRTIO_MMIO_STRIDE`] apart.
pub(crate) const VIRTIO_MMIO: (u64, u64) = (0xfe00_0000, 0x10_0000);
/// One page a device, so that each can be mapped by itself.
pub(crate) const VIRTIO_MMIO_STRIDE: u64 = 0x1000;
/// The I/O APIC's registers.
pub(crate) const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs' registers.
pub(crate) const LAPIC: u32 = 0xfee0_0000;
/// Three pages for Intel hosts' real-mode emulation, clear of everything else.
pub(crate) const TSS: usize = 0xfffb_d000;

/// GSI of the I/O APIC's pin 0. Not 0, so that no device has GSI 0, which Linux's serial driver takes for
/// "no interrupt"; 4, so that COM1 has the number it has always had.
pub(crate) const GSI_BASE: u32 = 4;
/// First GSI given to virtio-mmio devices; those below belong to the PC's own devices.
pub(crate) const FIRST_FREE_GSI: u32 = COM1_GSI + 1;
/// COM1's interrupt.
pub(crate) const COM1_GSI: u32 = GSI_BASE;

/// The global descriptor table the first processor starts with.
pub(crate) const GDT: u64 = 0x500;
/// `struct boot_params` (Documentation/arch/x86/zero-page.rst).
pub(crate) const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the 64-bit entry: PML4, PDPT, then page directories.
pub(crate) const PAGE_TABLES: u64 = 0x9000;
/// The kernel command line.
pub(crate) const CMDLINE: u64 = 0x2_0000;
/// Longest command line with its terminator (COMMAND_LINE_SIZE of x86).
pub(crate) const CMDLINE_MAX: usize = 2048;
/// End of conventional memory.
pub(crate) const LOW_RAM_END: u64 = 0x9_fc00;
/// Where a BIOS would be; the rest of this is about what lies in it.
pub(crate) const FIRMWARE: (u64, u64) = (0xe_0000, 0x2_0000);
/// ACPI tables, where a BIOS would have put them, RSDP first.
pub(crate) const ACPI: u64 = FIRMWARE.0;
/// SMBIOS tables, at the first place where a kernel looks for them, behind ACPI's.
pub(crate) const SMBIOS: u64 = 0xf_0000;
/// Where a BIOS would have its reset entry (F000:FFF0), behind the tables.
pub(crate) const RESET_VECTOR: u64 = 0xf_fff0;
/// RAM above the BIOS area.
pub(crate) const HIGH_RAM: u64 = 0x10_0000;

/// RAM of `size` bytes as (guest address, offset in the host mapping, length).
pub(crate) fn ram_ranges(size: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let low = size.min(HOLE_START);
    let high = (size > low).then(|| (HOLE_END, low, size - low));
    std::iter::once((0, 0, low)).chain(high)
}

/// First guest address behind all RAM.
pub(crate) fn ram_end(size: u64) -> u64 {
    ram_ranges(size).map(|(guest, _, len)| guest + len).fold(0, u64::max)
}

/// The 64-bit PCI window: 64 GiB behind RAM, aligned to 1 GiB and never below 4 GiB.
pub(crate) fn pci64(size: u64) -> (u64, u64) {
    (ram_end(size).max(HOLE_END).next_multiple_of(1 << 30), 64 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ram_covers_its_size_once_and_never_the_hole(mib in 64u64..1 << 16) {
            let size = mib << 20;
            let parts: Vec<_> = ram_ranges(size).collect();
            prop_assert_eq!(parts.iter().map(|p| p.2).sum::<u64>(), size);
            let mut offset = 0;
            for (guest, at, len) in parts {
                prop_assert_eq!(at, offset);
                offset += len;
                prop_assert!(guest + len <= HOLE_START || guest >= HOLE_END);
            }
        }

        #[test]
        fn the_64_bit_window_never_meets_ram(mib in 64u64..1 << 16) {
            prop_assert!(pci64(mib << 20).0 >= ram_end(mib << 20));
        }
    }

    #[test]
    fn three_gib_fit_below_the_hole_and_one_page_more_goes_above() {
        assert_eq!(ram_ranges(HOLE_START).count(), 1);
        let above: Vec<_> = ram_ranges(HOLE_START + 4096).collect();
        assert_eq!(above, [(0, 0, HOLE_START), (HOLE_END, HOLE_START, 4096)]);
    }
}
