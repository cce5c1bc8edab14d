//! The state in which a processor starts: long mode for the first, reset for the others.

use kvm_bindings::{Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::layout;

/// Intel SDM vol. 3A, 2.5: protection, numeric errors, paging, extension type.
const CR0_PE_ET_NE_PG: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 31;
/// Physical address extension.
const CR4_PAE: u64 = 1 << 5;
/// Long mode enabled and active.
const EFER_LME_LMA: u64 = 1 << 8 | 1 << 10;
/// Page table entry: present and writable; bit 7 makes it a 2 MiB page.
const PRESENT_RW: u64 = 0b11;
const HUGE: u64 = 1 << 7;

/// Segment selectors the 64-bit boot protocol asks for (`__BOOT_CS` 0x10, `__BOOT_DS` 0x18).
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What stands at the BIOS's reset entry: `mov al, 0xfe; out 0x64, al; hlt; jmp -3`, the keyboard controller's reset
/// pulse. Linux on a hardware-reduced platform without EFI restarts by going back to real mode and jumping there,
/// unless `reboot=` says otherwise; with nothing there it would run through zeros for ever.
const RESET_CODE: [u8; 7] = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

/// Where the first processor enters the kernel, by the 64-bit boot protocol (Documentation/arch/x86/boot.rst): in long
/// mode, with RSI pointing to the zero page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Address of the first instruction.
    pub(crate) rip: u64,
}

/// Writes what [`Entry`] needs in guest memory besides the boot parameters: descriptor and page tables.
pub(crate) fn write_tables(ram: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    let gdt: Vec<u8> = GDT_ENTRIES.iter().flat_map(|e| e.to_le_bytes()).collect();
    ram.write_slice(&gdt, GuestAddress(layout::GDT))?;
    let (pml4, pdpt, pd) = (layout::PAGE_TABLES, layout::PAGE_TABLES + 0x1000, layout::PAGE_TABLES + 0x2000);
    ram.write_obj(pdpt | PRESENT_RW, GuestAddress(pml4))?;
    ram.write_obj(pd | PRESENT_RW, GuestAddress(pdpt))?;
    // The first GiB, one to one: the kernel builds its own tables before it looks further.
    let entries: Vec<u8> = (0..512u64).flat_map(|i| (i << 21 | HUGE | PRESENT_RW).to_le_bytes()).collect();
    ram.write_slice(&entries, GuestAddress(pd))?;
    ram.write_slice(&RESET_CODE, GuestAddress(layout::RESET_VECTOR))
}

fn flat(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// Edits the system registers of the first processor: long mode, the first GiB mapped one to one.
pub(crate) fn set_sregs(sregs: &mut kvm_sregs) {
    sregs.cs = flat(0x10, 0xb, true);
    let data = flat(0x18, 0x3, false);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() };
    sregs.gdt = kvm_dtable { base: layout::GDT, limit: 31, ..Default::default() };
    sregs.idt = kvm_dtable::default();
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.cr0 = CR0_PE_ET_NE_PG;
    sregs.efer = EFER_LME_LMA;
}

/// Has the local APIC begin in x2APIC mode, as firmware may leave it: a kernel that finds it so neither maps nor
/// touches the registers of the older mode, each access to which is an exit with an emulated instruction.
pub(crate) fn enable_x2apic(sregs: &mut kvm_sregs) {
    const X2APIC: u64 = 1 << 10;
    sregs.apic_base |= X2APIC;
}

/// The general registers of the first processor for `entry`.
pub(crate) fn regs(entry: Entry) -> kvm_regs {
    // Bit 1 of the flags always reads one.
    kvm_regs { rip: entry.rip, rsi: layout::ZERO_PAGE, rflags: 2, ..Default::default() }
}

/// Registers that firmware would have set: fast strings on.
pub(crate) fn boot_msrs() -> Option<Msrs> {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    Msrs::from_entries(&[entry(IA32_MISC_ENABLE, 1)]).ok()
}
