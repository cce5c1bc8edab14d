//! SMBIOS tables (DMTF DSP0134, 3.3): who made this machine, for a guest that asks.
//!
//! Linux believes in configuration mechanism 1 of PCI without probing the bus for a bridge when the BIOS is dated 2001
//! or later, which spares a machine without PCI the bridge; and it trusts ACPI's word on PCI's windows from 2023 on.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::arch::layout;

/// BIOS date, the month and day of no importance.
const DATE: &str = "01/01/2026";
const MANUFACTURER: &str = "Kiwi";
const PRODUCT: &str = "Kiwi VMM";

/// "BIOS characteristics are not supported", 7.1.1.
const NO_CHARACTERISTICS: u64 = 1 << 3;
/// "SMBIOS table describes a virtual machine", 7.1.2.2.
const VIRTUAL_MACHINE: u8 = 1 << 4;
/// A BIOS or controller release that is none, 7.1.
const NO_RELEASE: u8 = 0xff;
/// Wake-up type "power switch", 7.2.2.
const POWER_SWITCH: u8 = 6;

/// Writes the entry point where a kernel looks for it, and the structures behind it.
pub(crate) fn write(ram: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let structures = [bios(), system(), structure(END, 2, &[], &[])].concat();
    let at = layout::SMBIOS + ENTRY_ROOM;
    ram.write_slice(&structures, GuestAddress(at))?;
    ram.write_slice(&entry(at, structures.len()), GuestAddress(layout::SMBIOS))
}

const BIOS: u8 = 0;
const SYSTEM: u8 = 1;
const END: u8 = 127;

/// The entry point has 24 bytes.
const ENTRY_ROOM: u64 = 32;

/// The 64-bit entry point, 5.2.2.
#[allow(clippy::cast_possible_truncation)] // a few structures
fn entry(at: u64, len: usize) -> [u8; 24] {
    let mut entry = [0; 24];
    let (anchor, rest) = entry.split_at_mut(5);
    anchor.copy_from_slice(b"_SM3_");
    // Checksum, length, version 3.3.0, revision of the entry point.
    rest[..6].copy_from_slice(&[0, 24, 3, 3, 0, 1]);
    rest[7..11].copy_from_slice(&(len as u32).to_le_bytes());
    rest[11..].copy_from_slice(&at.to_le_bytes());
    entry[5] = entry.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    entry
}

/// A structure: header, fields, strings, each ended by a zero, and one more. 6.1.
#[allow(clippy::cast_possible_truncation)] // 26 bytes at most
fn structure(kind: u8, handle: u16, fields: &[u8], strings: &[&str]) -> Vec<u8> {
    let mut out = vec![kind, fields.len() as u8 + 4];
    out.extend(handle.to_le_bytes());
    out.extend(fields);
    for string in strings {
        out.extend(string.as_bytes());
        out.push(0);
    }
    if strings.is_empty() {
        out.push(0);
    }
    out.push(0);
    out
}

/// Type 0, 7.1.
fn bios() -> Vec<u8> {
    // Strings 1 and 2, no segment, string 3, no ROM.
    let mut fields = vec![1, 2, 0, 0, 3, 0];
    fields.extend(NO_CHARACTERISTICS.to_le_bytes());
    fields.extend([0, VIRTUAL_MACHINE, NO_RELEASE, NO_RELEASE, NO_RELEASE, NO_RELEASE, 0, 0]);
    structure(BIOS, 0, &fields, &[MANUFACTURER, env!("CARGO_PKG_VERSION"), DATE])
}

/// Type 1, 7.2: no serial number, no UUID, no more names.
fn system() -> Vec<u8> {
    let mut fields = vec![1, 2, 3, 0];
    fields.extend([0; 16]);
    fields.extend([POWER_SWITCH, 0, 0]);
    structure(SYSTEM, 1, &fields, &[MANUFACTURER, PRODUCT, env!("CARGO_PKG_VERSION")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Vec<u8> {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).expect("memory");
        write(&ram).expect("written");
        let mut raw = vec![0; 512];
        ram.read_slice(&mut raw, GuestAddress(layout::SMBIOS)).expect("read");
        raw
    }

    #[test]
    fn the_entry_point_sums_to_zero_and_leads_to_the_structures() {
        let raw = tables();
        assert_eq!(&raw[..5], b"_SM3_");
        assert_eq!(raw[..24].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let at = u64::from_le_bytes(raw[16..24].try_into().expect("eight bytes"));
        let len = u32::from_le_bytes(raw[12..16].try_into().expect("four bytes"));
        assert_eq!(at % 16, 0);
        let first = usize::try_from(at - layout::SMBIOS).expect("near");
        assert_eq!(raw[first], BIOS);
        let last = first + usize::try_from(len).expect("short");
        assert_eq!(raw[last - 6..last], [END, 4, 2, 0, 0, 0]);
        assert!(raw[last..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_walk_along_lengths_and_strings_finds_every_structure() {
        let raw = [bios(), system(), structure(END, 2, &[], &[])].concat();
        let (mut at, mut seen) = (0, Vec::new());
        while at < raw.len() {
            seen.push((raw[at], raw[at + 1]));
            at += usize::from(raw[at + 1]);
            at += raw[at..].windows(2).position(|pair| pair == [0, 0]).expect("an end") + 2;
        }
        assert_eq!(seen, [(BIOS, 0x1a), (SYSTEM, 0x1b), (END, 4)]);
    }
}
