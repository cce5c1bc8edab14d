//! The DSDT: devices a kernel cannot find by itself, in as little AML as says it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name,
    PackageBuilder, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use devices::legacy::ports;

use crate::arch::layout;

/// What the tables say about a machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Described {
    /// Processors, with APIC ids from 0 on.
    pub(crate) cpus: u8,
    /// Whether there is a PCI host bridge.
    pub(crate) pci: bool,
    /// Guest memory in bytes, behind which the 64-bit PCI window lies.
    pub(crate) ram_size: u64,
    /// Whether COM1 is there.
    pub(crate) serial: bool,
    /// virtio-mmio devices: base address and GSI.
    pub(crate) virtio_mmio: Vec<(u32, u32)>,
}

/// The whole table.
pub(super) fn table(machine: &Described) -> Sdt {
    let mut body = Vec::new();
    sleep_state().to_aml_bytes(&mut body);
    if machine.serial {
        serial(&mut body);
    }
    rtc(&mut body);
    pvpanic(&mut body);
    for (uid, (base, gsi)) in (0u32..).zip(&machine.virtio_mmio) {
        virtio_mmio(&mut body, uid, *base, *gsi);
    }
    if machine.pci {
        host_bridge(&mut body, layout::pci64(machine.ram_size));
    }
    super::sdt(*b"DSDT", &body)
}

/// `_S5`: the value the sleep control register takes to power off.
fn sleep_state() -> Name {
    let mut package = PackageBuilder::new();
    package.add_element(&ports::SLEEP_TYPE_OFF);
    Name::new("_S5_".into(), &package)
}

fn device(body: &mut Vec<u8>, name: &str, parts: &[&dyn Aml]) {
    Scope::new("_SB_".into(), vec![&Device::new(name.into(), parts.to_vec())]).to_aml_bytes(body);
}

fn serial(body: &mut Vec<u8>) {
    let interrupt = Interrupt::new(true, true, false, false, layout::COM1_GSI);
    let io = IO::new(ports::COM1, ports::COM1, 1, 8);
    let crs = ResourceTemplate::new(vec![&interrupt, &io]);
    device(
        body,
        "COM1",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &acpi_tables::aml::ZERO),
            &Name::new("_CRS".into(), &crs),
        ],
    );
}

fn rtc(body: &mut Vec<u8>) {
    let io = IO::new(ports::RTC, ports::RTC, 0, 2);
    let crs = ResourceTemplate::new(vec![&io]);
    device(
        body,
        "RTC_",
        &[&Name::new("_HID".into(), &EISAName::new("PNP0B00")), &Name::new("_CRS".into(), &crs)],
    );
}

/// Documentation of QEMU's pvpanic: ACPI device QEMU0001 with one port.
fn pvpanic(body: &mut Vec<u8>) {
    let io = IO::new(ports::PVPANIC, ports::PVPANIC, 1, 1);
    let crs = ResourceTemplate::new(vec![&io]);
    device(body, "PEVT", &[&Name::new("_HID".into(), &"QEMU0001"), &Name::new("_CRS".into(), &crs)]);
}

fn virtio_mmio(body: &mut Vec<u8>, uid: u32, base: u32, gsi: u32) {
    #[allow(clippy::cast_possible_truncation)] // a constant of one page
    let registers = Memory32Fixed::new(true, base, layout::VIRTIO_MMIO_STRIDE as u32);
    let interrupt = Interrupt::new(true, true, false, false, gsi);
    let crs = ResourceTemplate::new(vec![&registers, &interrupt]);
    device(
        body,
        &format!("VR{uid:02X}"),
        &[
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &uid),
            &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
            &Name::new("_CRS".into(), &crs),
        ],
    );
}

fn host_bridge(body: &mut Vec<u8>, (base64, len64): (u64, u64)) {
    #[allow(clippy::cast_possible_truncation)] // both ends lie below 4 GiB by the layout
    let (first32, last32) = (layout::PCI32.0 as u32, (layout::PCI32.0 + layout::PCI32.1 - 1) as u32);
    let config = IO::new(ports::PCI_CONFIG, ports::PCI_CONFIG, 1, 8);
    let buses = AddressSpace::new_bus_number(0u16, 0u16);
    let window32 = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first32, last32, None);
    let window64 =
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, base64, base64 + len64 - 1, None);
    let (first_port, ports) = layout::PCI_PORTS;
    let window_of_ports = AddressSpace::new_io(first_port, first_port + (ports - 1), None);
    let crs = ResourceTemplate::new(vec![&buses, &config, &window_of_ports, &window32, &window64]);
    device(
        body,
        "PCI0",
        &[
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_SEG".into(), &acpi_tables::aml::ZERO),
            &Name::new("_BBN".into(), &acpi_tables::aml::ZERO),
            &Name::new("_UID".into(), &acpi_tables::aml::ZERO),
            &Name::new("_CCA".into(), &acpi_tables::aml::ONE),
            &Name::new("_CRS".into(), &crs),
        ],
    );
}
