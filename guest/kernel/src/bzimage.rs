//! The header of an x86 bzImage (Linux, Documentation/arch/x86/boot.rst) and where its payload lies.

use crate::unpack::UnpackError;
use crate::{u16_at, u32_at};

const SECTOR: usize = 512;
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const INIT_SIZE: usize = 0x260;
/// The first protocol that names the payload.
const PROTOCOL_PAYLOAD: u16 = 0x208;
/// The first protocol with `init_size`.
const PROTOCOL_INIT_SIZE: u16 = 0x20a;
/// No kernel is larger; a header that says so is not believed.
const SIZE_LIMIT: usize = 1 << 30;

/// What a payload begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `CONFIG_KERNEL_UNCOMPRESSED`: the ELF as it is.
    None,
    /// `CONFIG_KERNEL_GZIP`.
    Gzip,
    /// `CONFIG_KERNEL_XZ`, with the x86 branch filter.
    Xz,
    /// `CONFIG_KERNEL_LZ4`, the legacy frame.
    Lz4,
    /// `CONFIG_KERNEL_ZSTD`.
    Zstd,
    /// `CONFIG_KERNEL_BZIP2`, not unpacked here.
    Bzip2,
    /// `CONFIG_KERNEL_LZMA`, not unpacked here.
    Lzma,
    /// `CONFIG_KERNEL_LZO`, not unpacked here.
    Lzo,
}

impl Compression {
    /// The compression whose magic the payload begins with.
    pub fn of(payload: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\x89LZO", Compression::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, kind)| *kind)
    }

    /// The name people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
        }
    }
}

/// A checked view of a bzImage.
#[derive(Debug, Clone, Copy)]
pub struct BzImage<'a> {
    /// The compressed vmlinux, usually with its unpacked size in the last four bytes.
    pub payload: &'a [u8],
    /// The most bytes that the payload may unpack to.
    pub limit: usize,
}

/// Whether the bytes carry the boot sector's two signs of a bzImage.
pub(crate) fn is_bzimage(bytes: &[u8]) -> bool {
    u16_at(bytes, 0x1fe) == Some(0xaa55) && bytes.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

impl<'a> BzImage<'a> {
    /// Checks the header against the file and finds the payload.
    ///
    /// # Errors
    /// The file is no bzImage, is too old to name its payload, or ends before what its header promises.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UnpackError> {
        if !is_bzimage(bytes) {
            return Err(UnpackError::NotAKernel);
        }
        let header = UnpackError::Truncated("boot header");
        let version = u16_at(bytes, VERSION).ok_or(header)?;
        if version < PROTOCOL_PAYLOAD {
            return Err(UnpackError::OldProtocol { major: version >> 8, minor: version & 0xff });
        }
        let field = |offset| {
            let value = u32_at(bytes, offset).ok_or(UnpackError::Truncated("boot header"))?;
            usize::try_from(value).map_err(|_| UnpackError::Truncated("boot header"))
        };
        let start = protected_mode_start(bytes)?;
        let system = field(SYSSIZE)?.checked_mul(16).and_then(|size| start.checked_add(size));
        if system.is_none_or(|end| end > bytes.len()) {
            return Err(UnpackError::Truncated("compressed kernel"));
        }
        let payload = slice(bytes, start.saturating_add(field(PAYLOAD_OFFSET)?), field(PAYLOAD_LENGTH)?)
            .ok_or(UnpackError::Truncated("compressed kernel"))?;
        let init_size = if version >= PROTOCOL_INIT_SIZE { field(INIT_SIZE)? } else { 0 };
        let limit = if init_size == 0 { SIZE_LIMIT } else { init_size.min(SIZE_LIMIT) };
        Ok(Self { payload, limit })
    }
}

/// Where the protected-mode part begins: after the boot sector and the setup sectors (0 means 4).
fn protected_mode_start(bytes: &[u8]) -> Result<usize, UnpackError> {
    let sectors = *bytes.get(SETUP_SECTS).ok_or(UnpackError::Truncated("boot header"))?;
    let sectors = if sectors == 0 { 4 } else { usize::from(sectors) };
    Ok((sectors + 1) * SECTOR)
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(length)?)
}
