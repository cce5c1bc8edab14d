//! An ELF vmlinux: 64-bit, little-endian, x86-64, loaded at its physical addresses.
//!
//! A file's holes are not copied, since guest memory is zero to begin with. Debian's kernels carry `.bss`, scratch
//! space and the gaps between sections as zeros, a quarter of the file; the kernel cache leaves holes for them.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, ReadVolatile, VolatileMemoryError, VolatileSlice,
};

use super::LoadedKernel;
use crate::arch::layout;

const MAGIC: [u8; 4] = *b"\x7fELF";
/// 64-bit, little-endian, current version (ELF header, e_ident).
const IDENT: [u8; 3] = [2, 1, 1];
const MACHINE_X86_64: u16 = 62;
const HEADER_LEN: usize = 64;
const PHDR_LEN: usize = 56;
/// A kernel has about five; a file that claims thousands is not one.
const MAX_PHDRS: u16 = 64;
const PT_LOAD: u32 = 1;

/// Whether the file begins like an ELF file.
pub(super) fn is_elf(file: &File) -> bool {
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == MAGIC
}

struct Segment {
    offset: u64,
    paddr: u64,
    filesz: u64,
    memsz: u64,
}

/// Loads `file` into `ram`. The error is the rest of a sentence that begins "kernel PATH".
pub(super) fn load(ram: &GuestMemoryMmap, file: &File) -> Result<LoadedKernel, String> {
    let len = file.metadata().map_err(|e| format!("cannot be examined: {e}"))?.len();
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, 0).map_err(|_| "is cut off inside its ELF header".to_owned())?;
    let entry = check_header(&header)?;
    let segments = segments(file, &header, len)?;
    let mut copied = 0;
    for s in &segments {
        copied += copy(ram, file, s)?;
    }
    let end = segments.iter().map(|s| s.paddr + s.memsz).max().unwrap_or(0);
    if !segments.iter().any(|s| (s.paddr..s.paddr + s.memsz).contains(&entry)) {
        return Err(format!("has its entry point {entry:#x} outside of every segment"));
    }
    Ok(LoadedKernel { entry, end, copied, setup: None })
}

fn check_header(header: &[u8; HEADER_LEN]) -> Result<u64, String> {
    if header.get(4..7) != Some(&IDENT) {
        return Err("is not a 64-bit little-endian ELF file".into());
    }
    let machine = u16_at(header, 18);
    if machine != MACHINE_X86_64 {
        return Err(format!("is for ELF machine {machine}, not for x86-64 (62)"));
    }
    Ok(u64_at(header, 24))
}

fn segments(file: &File, header: &[u8; HEADER_LEN], file_len: u64) -> Result<Vec<Segment>, String> {
    let (phoff, phentsize, phnum) = (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    if usize::from(phentsize) != PHDR_LEN || phnum == 0 || phnum > MAX_PHDRS {
        return Err(format!("has {phnum} program headers of {phentsize} bytes, which no kernel has"));
    }
    let mut table = vec![0; PHDR_LEN * usize::from(phnum)];
    file.read_exact_at(&mut table, phoff).map_err(|_| {
        "has its program headers past the end of the file; it is cut off or damaged".to_owned()
    })?;
    let mut found = Vec::new();
    for p in table.chunks_exact(PHDR_LEN).filter(|p| u32_at(p, 0) == PT_LOAD) {
        let s = Segment {
            offset: u64_at(p, 8),
            paddr: u64_at(p, 24),
            filesz: u64_at(p, 32),
            memsz: u64_at(p, 40),
        };
        if s.memsz > 0 {
            check_segment(&s, file_len)?;
            found.push(s);
        }
    }
    if found.is_empty() {
        return Err("has nothing to load".into());
    }
    Ok(found)
}

fn check_segment(s: &Segment, file_len: u64) -> Result<(), String> {
    if s.offset.checked_add(s.filesz).is_none_or(|end| end > file_len) {
        return Err(format!(
            "has a segment of {:#x} bytes at offset {:#x}, past the end of the file; it is cut off or damaged",
            s.filesz, s.offset
        ));
    }
    if s.filesz > s.memsz || s.paddr < layout::HIGH_RAM {
        return Err(format!("has a segment for address {:#x} that no kernel has", s.paddr));
    }
    if s.paddr.checked_add(s.memsz).is_none_or(|end| end > layout::HOLE_START) {
        return Err(format!("wants to be at {:#x}, inside or above the 32-bit hole", s.paddr));
    }
    Ok(())
}

/// Copies what of `s` is not zero; returns how many bytes.
fn copy(ram: &GuestMemoryMmap, file: &File, s: &Segment) -> Result<u64, String> {
    let len = usize::try_from(s.memsz).unwrap_or(usize::MAX);
    let Ok(to) = ram.get_slice(GuestAddress(s.paddr), len) else {
        return Err(format!(
            "needs memory up to {} MiB, which the guest does not have; give it more",
            (s.paddr + s.memsz).div_ceil(1 << 20)
        ));
    };
    let mut copied = 0;
    for (from, end) in extents(file, s.offset, s.offset + s.filesz) {
        let (skip, count) = (usize::try_from(from - s.offset), usize::try_from(end - from));
        let (Ok(skip), Ok(count)) = (skip, count) else { return Err("is too large".into()) };
        let mut to = to.subslice(skip, count).map_err(|e| e.to_string())?;
        read(file, from, &mut to).map_err(|e| format!("cannot be read at offset {from:#x}: {e}"))?;
        copied += end - from;
    }
    Ok(copied)
}

/// A piece of a kernel that is read at once.
const PIECE: usize = 1 << 20;

/// From the page cache to guest memory in one copy, made by the host's kernel: mapping the file would cost a fault
/// every 64 KiB, and a signal where it is cut short meanwhile.
///
/// In pieces, with a word to the scheduler between them: the thread that creates the machine waits for grace periods of
/// the host's RCU, and where there is no other processor one ends only once this thread has been scheduled.
fn read(mut file: &File, at: u64, to: &mut VolatileSlice<'_>) -> Result<(), VolatileMemoryError> {
    file.seek(SeekFrom::Start(at)).map_err(VolatileMemoryError::IOError)?;
    for from in (0..to.len()).step_by(PIECE) {
        file.read_exact_volatile(&mut to.subslice(from, PIECE.min(to.len() - from))?)?;
        std::thread::yield_now();
    }
    Ok(())
}

/// The stretches of data in `at..end`. Only a file with holes is asked for them: on a file without, the question
/// costs as much as a scan.
fn extents(file: &File, at: u64, end: u64) -> Vec<(u64, u64)> {
    let sparse = file.metadata().is_ok_and(|m| m.blocks() * 512 < m.len());
    let mut found = Vec::new();
    let mut at = at;
    while let Some((from, to)) = if sparse { next_extent(file, at, end) } else { Some((at, end)) } {
        if to <= at {
            break;
        }
        found.push((from, to));
        at = to;
    }
    found
}

/// The next stretch of data in `at..end`. A file system without holes calls everything data.
fn next_extent(file: &File, at: u64, end: u64) -> Option<(u64, u64)> {
    use nix::unistd::{Whence, lseek};
    let at_off = i64::try_from(at).ok()?;
    let from = match lseek(file, at_off, Whence::SeekData) {
        Ok(from) => u64::try_from(from).ok()?,
        Err(nix::errno::Errno::ENXIO) => return None, // only a hole from here on
        Err(_) => return Some((at, end)),
    };
    if from >= end {
        return None;
    }
    let to = lseek(file, i64::try_from(from).ok()?, Whence::SeekHole)
        .ok()
        .and_then(|to| u64::try_from(to).ok())
        .map_or(end, |to| to.min(end));
    Some((from, to.max(from)))
}

fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..at + N).and_then(|s| s.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes(b, at))
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes(b, at))
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes(b, at))
}
