//! The zero page: `struct boot_params`, by which a kernel learns its memory map, command line, initrd and ACPI.

use linux_loader::bootparam::{boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::initrd::Initrd;
use super::{BootError, LoadedKernel};
use crate::arch::layout;

/// "HdrS" and the boot flag (Documentation/arch/x86/boot.rst).
const HEADER_MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// A boot loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xff;
/// e820 types.
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Writes the zero page.
pub(super) fn write(
    ram: &GuestMemoryMmap,
    ram_size: u64,
    kernel: &LoadedKernel,
    initrd: Option<Initrd>,
) -> Result<(), BootError> {
    let mut params = boot_params { hdr: header(kernel, initrd), ..Default::default() };
    params.acpi_rsdp_addr = layout::ACPI;
    let map = e820(ram_size);
    for (slot, (addr, size, type_)) in params.e820_table.iter_mut().zip(&map) {
        (slot.addr, slot.size, slot.r#type) = (*addr, *size, *type_);
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    Ok(ram.write_obj(params, GuestAddress(layout::ZERO_PAGE))?)
}

fn header(kernel: &LoadedKernel, initrd: Option<Initrd>) -> setup_header {
    let mut hdr = kernel.setup.as_deref().copied().unwrap_or_default();
    hdr.boot_flag = BOOT_FLAG;
    hdr.header = HEADER_MAGIC;
    hdr.type_of_loader = UNDEFINED_LOADER;
    #[allow(clippy::cast_possible_truncation)] // a constant below 1 MiB
    {
        hdr.cmd_line_ptr = layout::CMDLINE as u32;
        hdr.cmdline_size = layout::CMDLINE_MAX as u32 - 1;
    }
    if let Some(initrd) = initrd {
        hdr.ramdisk_image = initrd.address;
        hdr.ramdisk_size = u32::try_from(initrd.size).unwrap_or(u32::MAX);
    }
    hdr
}

/// The memory map: (address, size, type).
fn e820(ram_size: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, layout::LOW_RAM_END, E820_RAM),
        // Where the tables lie: reserved, so that they stay.
        (layout::FIRMWARE.0, layout::FIRMWARE.1, E820_RESERVED),
    ];
    for (guest, _, len) in layout::ram_ranges(ram_size) {
        let from = guest.max(layout::HIGH_RAM);
        map.push((from, guest + len - from, E820_RAM));
    }
    // Linux trusts an ECAM only where the memory map reserves it.
    map.push((layout::ECAM.0, layout::ECAM.1, E820_RESERVED));
    map
}
