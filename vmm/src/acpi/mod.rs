//! ACPI tables (ACPI 6.5): what the guest's kernel learns about the machine that it cannot probe.
//!
//! The platform is hardware-reduced: no SCI, no PM timer, no legacy PIC behind it, so that a kernel skips all
//! their set-up. Tables are written once, before the guest runs, one behind the other from the RSDP on.

mod dsdt;

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, sdt::Sdt};
use devices::legacy::ports;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::layout;
pub(crate) use dsdt::Described;

const OEM: [u8; 6] = *b"KIWI  ";
const TABLE: [u8; 8] = *b"KIWIVMM ";
const REVISION: u32 = 1;

/// IAPC_BOOT_ARCH (ACPI 6.5, 5.2.9.3): no VGA, no ASPM; neither "8042" nor "legacy devices", so that a kernel
/// does not probe for a keyboard; the RTC is there.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 4;

/// Writes all tables for `machine`.
pub(crate) fn write(ram: &GuestMemoryMmap, machine: &Described) -> Result<(), GuestMemoryError> {
    let mut area = Area { ram, next: layout::ACPI + RSDP_ROOM };
    let dsdt = area.put(&dsdt::table(machine))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(area.put(&fadt(dsdt))?);
    xsdt.add_entry(area.put(&madt(machine.cpus))?);
    if machine.pci {
        let mut mcfg = MCFG::new(OEM, TABLE, REVISION);
        mcfg.add_ecam(layout::ECAM.0, 0, 0, 0);
        xsdt.add_entry(area.put(&mcfg)?);
    }
    let xsdt = area.put(&xsdt)?;
    ram.write_slice(&bytes(&Rsdp::new(OEM, xsdt)), GuestAddress(layout::ACPI))
}

/// The RSDP has 36 bytes; tables start on a round address behind it.
const RSDP_ROOM: u64 = 64;

struct Area<'a> {
    ram: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<u64, GuestMemoryError> {
        let (at, raw) = (self.next, bytes(table));
        let end = at + raw.len() as u64;
        if end > layout::SMBIOS {
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(end)));
        }
        self.ram.write_slice(&raw, GuestAddress(at))?;
        self.next = end.next_multiple_of(16);
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut raw = Vec::new();
    table.to_aml_bytes(&mut raw);
    raw
}

fn port(address: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(address))
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(ports::RESET);
    fadt.reset_value = ports::RESET_VALUE;
    fadt.sleep_control_reg = port(ports::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(ports::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(cpus: u8) -> MADT {
    let mut madt = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(layout::LAPIC));
    for id in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IOAPIC, layout::GSI_BASE));
    madt
}

fn sdt(signature: [u8; 4], body: &[u8]) -> Sdt {
    let mut sdt = Sdt::new(signature, 36, 2, OEM, TABLE, REVISION);
    sdt.append_slice(body);
    sdt
}
