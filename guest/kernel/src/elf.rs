//! What the cache needs of an ELF file: that it is whole, and its GNU build id.

use crate::{u16_at, u32_at, u64_at};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;
const EM_X86_64: u16 = 62;
/// A note's fields are padded to four bytes in every vmlinux.
const NOTE_ALIGNMENT: usize = 4;

/// What is wrong with a file that should be an x86-64 ELF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The magic is missing.
    #[error("it has no ELF header")]
    NotElf,
    /// Another class, byte order or machine.
    #[error("its ELF header is not that of a 64-bit x86 program")]
    NotX86,
    /// The program headers lie past the end or have an unknown size.
    #[error("its ELF program headers lie outside the file")]
    ProgramHeaders,
    /// A segment's bytes lie past the end.
    #[error("its ELF segment {0} reaches past the end of the file")]
    Segment(usize),
}

/// A program header's part that lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// `p_type` (1 = load, 4 = note).
    pub kind: u32,
    /// The bytes from `p_offset`, `p_filesz` long.
    pub bytes: &'a [u8],
}

/// An ELF file whose segments all lie within it.
#[derive(Debug, Clone)]
pub struct Elf<'a> {
    segments: Vec<Segment<'a>>,
}

impl<'a> Elf<'a> {
    /// Checks the header, the program headers and every segment's bounds.
    ///
    /// # Errors
    /// See [`ElfError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let header = bytes.get(..HEADER).ok_or(ElfError::ProgramHeaders)?;
        let class = (header.get(4).copied(), header.get(5).copied(), u16_at(header, 18));
        if class != (Some(ELFCLASS64), Some(ELFDATA2LSB), Some(EM_X86_64)) {
            return Err(ElfError::NotX86);
        }
        let table = program_headers(bytes).ok_or(ElfError::ProgramHeaders)?;
        let segments = table
            .chunks_exact(PROGRAM_HEADER)
            .enumerate()
            .map(|(index, header)| segment(bytes, header).ok_or(ElfError::Segment(index)))
            .collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }

    /// The segments, in the order of their headers.
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The linker's identity of this very build.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        let notes = self.segments.iter().filter(|segment| segment.kind == PT_NOTE);
        notes
            .flat_map(|segment| notes_of(segment.bytes))
            .find(|note| {
                note.kind == NT_GNU_BUILD_ID && note.name == b"GNU\0" && !note.description.is_empty()
            })
            .map(|note| note.description)
    }
}

fn program_headers(bytes: &[u8]) -> Option<&[u8]> {
    let start = usize::try_from(u64_at(bytes, 32)?).ok()?;
    if usize::from(u16_at(bytes, 54)?) != PROGRAM_HEADER {
        return None;
    }
    let length = usize::from(u16_at(bytes, 56)?) * PROGRAM_HEADER;
    (length > 0).then_some(())?;
    bytes.get(start..start.checked_add(length)?)
}

fn segment<'a>(bytes: &'a [u8], header: &[u8]) -> Option<Segment<'a>> {
    let start = usize::try_from(u64_at(header, 8)?).ok()?;
    let length = usize::try_from(u64_at(header, 32)?).ok()?;
    // An empty segment may name any offset: nothing is read from there.
    let bytes = if length == 0 { &[] } else { bytes.get(start..start.checked_add(length)?)? };
    Some(Segment { kind: u32_at(header, 0)?, bytes })
}

/// One entry of a note segment or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note<'a> {
    /// The type, whose meaning depends on the name.
    pub kind: u32,
    /// The owner, with its NUL.
    pub name: &'a [u8],
    /// The content.
    pub description: &'a [u8],
}

/// The notes in a note segment's bytes; ends at the first that is malformed.
pub fn notes_of(bytes: &[u8]) -> impl Iterator<Item = Note<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (note, after) = split_note(rest)?;
        rest = after;
        Some(note)
    })
}

fn split_note(bytes: &[u8]) -> Option<(Note<'_>, &[u8])> {
    let name_length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let description_length = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let kind = u32_at(bytes, 8)?;
    let (name, rest) = split_padded(bytes.get(12..)?, name_length)?;
    let (description, rest) = split_padded(rest, description_length)?;
    Some((Note { kind, name, description }, rest))
}

/// Splits `length` bytes off, and the padding after them; the last field of a segment may lack its padding.
fn split_padded(bytes: &[u8], length: usize) -> Option<(&[u8], &[u8])> {
    let padded = length.checked_next_multiple_of(NOTE_ALIGNMENT)?;
    Some((bytes.get(..length)?, bytes.get(padded..).unwrap_or_default()))
}

#[cfg(test)]
pub(crate) mod tests {
    // Sizes of test inputs fit any field.
    #![allow(clippy::cast_possible_truncation)]
    use super::*;

    /// A note as a linker writes it.
    pub(crate) fn note(kind: u32, name: &[u8], description: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [name.len() as u32, description.len() as u32, kind] {
            out.extend(word.to_le_bytes());
        }
        for field in [name, description] {
            out.extend(field);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    /// An ELF of one load segment (`body`) and one note segment.
    pub(crate) fn elf_with(body: &[u8], notes: &[u8]) -> Vec<u8> {
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(HEADER, 0);
        out[18] = 62;
        out[32..40].copy_from_slice(&64u64.to_le_bytes());
        out[54..56].copy_from_slice(&56u16.to_le_bytes());
        out[56..58].copy_from_slice(&2u16.to_le_bytes());
        let mut start = HEADER + 2 * PROGRAM_HEADER;
        for (kind, bytes) in [(1u32, body), (PT_NOTE, notes)] {
            let mut header = [0u8; PROGRAM_HEADER];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(start as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            out.extend(header);
            start += bytes.len();
        }
        out.extend(body);
        out.extend(notes);
        out
    }

    #[test]
    fn build_id_is_found_behind_another_note() {
        let notes = [note(6, b"Xen\0", b"x86"), note(3, b"GNU\0", &[0xab; 20])].concat();
        let file = elf_with(b"text", &notes);
        assert_eq!(Elf::parse(&file).unwrap().build_id(), Some(&[0xab; 20][..]));
    }

    #[test]
    fn a_note_whose_length_wraps_ends_the_list() {
        let mut bytes = note(3, b"GNU\0", b"id");
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(notes_of(&bytes).count(), 0);
    }

    #[test]
    fn every_cut_of_a_file_is_an_error_and_not_a_panic() {
        let file = elf_with(b"text", &note(3, b"GNU\0", &[1; 20]));
        for length in 0..file.len() {
            assert!(Elf::parse(&file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn headers_past_the_end_are_refused() {
        let mut file = elf_with(b"text", &[]);
        file[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Elf::parse(&file).unwrap_err(), ElfError::ProgramHeaders);
    }
}
