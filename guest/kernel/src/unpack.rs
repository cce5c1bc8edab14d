//! Tells kernel files apart and takes the vmlinux out of a bzImage.

use std::io::{self, Read};

use crate::bzimage::{BzImage, Compression, is_bzimage};
use crate::elf::{Elf, ElfError};
use crate::u32_at;

/// The kernel's own unpackers take dictionaries of up to 128 MiB (zstd at level 22), so do we, and no more.
const WINDOW_LIMIT: u32 = 128 << 20;
/// The legacy lz4 frame cuts its input into pieces of this size (lz4's `LEGACY_BLOCKSIZE`).
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: u32 = 0x184c_2102;
/// The most that a header may make us reserve before anything was unpacked.
const RESERVE_RATIO: usize = 16;

/// What a kernel file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ELF file: an unpacked vmlinux.
    Elf,
    /// An x86 bzImage: what distributions install as vmlinuz.
    BzImage,
    /// No byte at all.
    Empty,
    /// Begins as a kernel and ends within its first header.
    Truncated,
    /// Neither.
    Unknown,
}

/// Why a file gave no vmlinux. Each reads as what follows "the kernel PATH can't be used:".
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Zero bytes.
    #[error("the file is empty")]
    Empty,
    /// The file ends before what its header promises.
    #[error("the file ends inside its {0}, so it was cut short")]
    Truncated(&'static str),
    /// No magic that we know.
    #[error("it is neither a bzImage (vmlinuz) nor an ELF vmlinux for x86-64")]
    NotAKernel,
    /// Kernels before 2.6.26.
    #[error("its boot protocol {major}.{minor} is older than 2.8 and does not say where its payload is")]
    OldProtocol {
        /// The protocol's major number.
        major: u16,
        /// The protocol's minor number.
        minor: u16,
    },
    /// A compression that only the kernel's own decompressor knows.
    #[error("its payload is packed by {0}, which only the kernel itself can unpack")]
    Compression(&'static str),
    /// The decompressor found an error.
    #[error("its {compression} payload is corrupt")]
    Corrupt {
        /// The payload's compression.
        compression: &'static str,
        /// What the decompressor said.
        source: io::Error,
    },
    /// More output than the header allows.
    #[error("its payload unpacks to more than the {limit} bytes that its header allows")]
    TooLarge {
        /// The header's `init_size`, or 1 GiB.
        limit: usize,
    },
    /// The output is no vmlinux.
    #[error("its payload is not a usable vmlinux")]
    NotElf(#[from] ElfError),
}

impl UnpackError {
    /// Whether the file is a kernel all the same, to be booted as the bzImage that it is.
    pub fn is_fallback(&self) -> bool {
        matches!(self, Self::Compression(_) | Self::OldProtocol { .. })
    }
}

/// Tells what a kernel file is from its bytes (the first 4 KiB are enough).
pub fn detect(bytes: &[u8]) -> Kind {
    const ELF: &[u8] = b"\x7fELF";
    if bytes.is_empty() {
        return Kind::Empty;
    }
    if bytes.starts_with(ELF) {
        return if bytes.len() < 64 { Kind::Truncated } else { Kind::Elf };
    }
    if is_bzimage(bytes) {
        return if bytes.len() < 0x268 { Kind::Truncated } else { Kind::BzImage };
    }
    // A bzImage's boot sector begins as a DOS program since EFI stubs exist.
    let begins_well = ELF.starts_with(bytes) || (bytes.starts_with(b"MZ") && bytes.len() < 0x206);
    if begins_well { Kind::Truncated } else { Kind::Unknown }
}

/// Takes the vmlinux out of a bzImage and checks that it is a whole ELF.
///
/// The output is bounded by the header's `init_size`, or 1 GiB where there is none.
///
/// # Errors
/// See [`UnpackError`]; nothing in `bytes` makes this panic.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, UnpackError> {
    match detect(bytes) {
        Kind::Empty => return Err(UnpackError::Empty),
        Kind::Truncated => return Err(UnpackError::Truncated("header")),
        Kind::Unknown | Kind::Elf => return Err(UnpackError::NotAKernel),
        Kind::BzImage => {}
    }
    let image = BzImage::parse(bytes)?;
    let compression = Compression::of(image.payload).ok_or(UnpackError::Compression("an unknown program"))?;
    let vmlinux = decompress(compression, &image)?;
    Elf::parse(&vmlinux)?;
    Ok(vmlinux)
}

fn decompress(compression: Compression, image: &BzImage<'_>) -> Result<Vec<u8>, UnpackError> {
    let payload = image.payload;
    let out = match compression {
        Compression::None => Ok(payload.to_vec()),
        Compression::Gzip => read_bounded(flate2::read::GzDecoder::new(payload), image),
        Compression::Xz => read_bounded(
            lzma_rust2::XzReader::new_mem_limit(payload, false, WINDOW_LIMIT / 1024 + 1024),
            image,
        ),
        Compression::Zstd => unzstd(image),
        Compression::Lz4 => unlz4(image),
        other => return Err(UnpackError::Compression(other.name())),
    };
    let corrupt = |source| UnpackError::Corrupt { compression: compression.name(), source };
    let out = out.map_err(corrupt)?;
    if out.len() > image.limit {
        return Err(UnpackError::TooLarge { limit: image.limit });
    }
    if compression != Compression::None {
        has_its_size(&out, image).map_err(corrupt)?;
    }
    Ok(out)
}

/// The kernel's build ends every packed payload with its unpacked size (scripts/Makefile.lib, `size_append`; gzip has
/// it by itself), which mkpiggy relies on. lz4's legacy frame has no checksum: damage shows here or nowhere.
fn has_its_size(out: &[u8], image: &BzImage<'_>) -> io::Result<()> {
    match trailer(image) {
        Some(said) if said != out.len() => {
            Err(io::Error::other(format!("it unpacks to {} bytes, and its end says {said}", out.len())))
        }
        _ => Ok(()),
    }
}

/// The unpacked size as the payload's last bytes say it.
fn trailer(image: &BzImage<'_>) -> Option<usize> {
    let at = image.payload.len().checked_sub(4)?;
    u32_at(image.payload, at).and_then(|size| usize::try_from(size).ok())
}

/// Reads all that `reader` gives, up to one byte more than is allowed.
fn read_bounded(reader: impl Read, image: &BzImage<'_>) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(reservation(image));
    reader.take(image.limit as u64 + 1).read_to_end(&mut out)?;
    Ok(out)
}

/// How much to reserve: what the trailer says, if it is believable.
fn reservation(image: &BzImage<'_>) -> usize {
    let said = trailer(image).unwrap_or(0);
    // One byte more lets read_to_end see the end without growing.
    said.min(image.limit).min(image.payload.len().saturating_mul(RESERVE_RATIO)) + 1
}

fn unzstd(image: &BzImage<'_>) -> io::Result<Vec<u8>> {
    let mut decoder = ruzstd::decoding::FrameDecoder::new();
    decoder.set_max_window_size(u64::from(WINDOW_LIMIT));
    let reader = ruzstd::decoding::StreamingDecoder::new_with_decoder(image.payload, decoder)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    read_bounded(reader, image)
}

/// The legacy frame: magic, then pieces of (u32 length, block), then (in a bzImage) the unpacked size.
fn unlz4(image: &BzImage<'_>) -> io::Result<Vec<u8>> {
    let mut rest = image.payload.get(4..).unwrap_or_default();
    let mut out = Vec::with_capacity(reservation(image));
    // Four bytes or fewer can only be the trailer.
    while rest.len() > 4 && out.len() <= image.limit {
        let (size, after) = rest.split_at(4);
        let size = u32_at(size, 0).unwrap_or_default();
        rest = after;
        if size == LZ4_MAGIC {
            continue;
        }
        let block = rest.split_at_checked(size as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        rest = block.1;
        append_lz4_block(block.0, &mut out)?;
    }
    Ok(out)
}

fn append_lz4_block(block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let start = out.len();
    out.resize(start + LZ4_BLOCK, 0);
    let room = out.get_mut(start..).unwrap_or_default();
    let written = lz4_flex::block::decompress_into(block, room)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    out.truncate(start + written);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
