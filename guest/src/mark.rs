//! For benchmarks: the smallest process 1 there can be, as an ELF file of some 200 bytes.
//!
//! It needs nothing mounted, and beside itself only the console's node. Life cycle:
//! 1. the boot marker, 3, goes to port 0x608;
//! 2. the line `KIWI-MARK` goes to the console, for VMMs without that port;
//! 3. the guest is powered off.

mod sys;

use std::io;

use crate::archive::Archive;

const ELF_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const LOAD_ADDRESS: u64 = 0x40_0000;
const PAGE: u64 = 4096;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const READ_EXECUTE: u32 = 5;
/// Major and minor number of `/dev/console`, which the kernel opens for process 1.
const CONSOLE: (u32, u32) = (5, 1);

/// The program, an ELF executable.
pub fn mark_init() -> Vec<u8> {
    let code = sys::code();
    let start = ELF_HEADER + PROGRAM_HEADER;
    let size = start + code.len() as u64;
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend([EXECUTABLE, X86_64].iter().flat_map(|half| half.to_le_bytes()));
    out.extend(1u32.to_le_bytes());
    // Entry, program headers, section headers (none).
    out.extend([LOAD_ADDRESS + start, ELF_HEADER, 0].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    // Sizes and counts: ELF header, program header, one of them, and no section.
    out.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    out.extend([PT_LOAD, READ_EXECUTE].iter().flat_map(|word| word.to_le_bytes()));
    // Offset, both addresses, both sizes, alignment.
    let segment = [0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, PAGE];
    out.extend(segment.iter().flat_map(|word| word.to_le_bytes()));
    out.extend(code);
    out
}

/// An uncompressed initrd of [`mark_init`] and the console's node.
///
/// # Errors
/// None in practice: the archive's limits are far away.
pub fn mark_initrd() -> io::Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, mark_init());
    archive.char_device("dev/console", CONSOLE);
    archive.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_an_elf_of_a_few_hundred_bytes() {
        let program = mark_init();
        let elf = guest_kernel::elf::Elf::parse(&program).unwrap();
        assert_eq!(elf.segments().len(), 1);
        assert_eq!(elf.segments()[0].bytes.len(), program.len());
        assert!(program.len() < 300 && program.ends_with(b"KIWI-MARK\n"));
        assert!(mark_initrd().unwrap().len() <= 1024);
    }
}
