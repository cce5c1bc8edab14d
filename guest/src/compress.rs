//! Compression: of the initrd we write, and of the modules that a distribution ships.

use std::io::{self, Read, Write};
use std::path::Path;

/// No module is larger; a file that unpacks to more is not believed.
const MODULE_LIMIT: u64 = 256 << 20;
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// The piece size of lz4's legacy frame, which is what kernels read.
const LZ4_PIECE: usize = 8 << 20;
/// Zeros after the compressed data: Linux's lz4 reader takes four of them for the end of its frame.
const PADDING: usize = 512;

/// How an initrd is compressed. All are read by Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// As it is: the least work for the guest, the most for the host's memory.
    None,
    /// lz4's legacy frame: little work for the guest.
    Lz4,
    /// zstd, at the one level that a pure Rust encoder has.
    #[default]
    Zstd,
    /// gzip, which every kernel reads.
    Gzip,
    /// xz: the smallest and by far the slowest.
    Xz,
}

impl Compression {
    /// All of them, for a command line's list.
    pub const ALL: [Self; 5] = [Self::None, Self::Lz4, Self::Zstd, Self::Gzip, Self::Xz];

    /// Its name on the command line and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
        }
    }

    /// Compresses an archive, padded so that another one may follow.
    ///
    /// # Errors
    /// What an encoder says; none does for bytes in memory.
    pub fn compress(self, archive: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = match self {
            Self::None => archive.to_vec(),
            Self::Lz4 => lz4(archive),
            Self::Zstd => {
                ruzstd::encoding::compress_to_vec(archive, ruzstd::encoding::CompressionLevel::Fastest)
            }
            Self::Gzip => gzip(archive)?,
            Self::Xz => xz(archive)?,
        };
        out.resize((out.len() + 8).next_multiple_of(PADDING), 0);
        Ok(out)
    }
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut out = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
    for piece in bytes.chunks(LZ4_PIECE) {
        let block = lz4_flex::block::compress(piece);
        // A block is at most a little larger than its 8 MiB.
        out.extend(u32::try_from(block.len()).unwrap_or_default().to_le_bytes());
        out.extend(block);
    }
    out
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn xz(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut options = lzma_rust2::XzOptions::with_preset(6);
    // The kernel's reader knows no other check.
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options)?;
    writer.write_all(bytes)?;
    writer.finish()
}

/// Unpacks a module file by the end of its name.
pub(crate) fn unpack_module(path: &Path, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let bytes = bytes.as_slice();
    match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => read_all(lzma_rust2::XzReader::new(bytes, true)),
        Some("gz") => read_all(flate2::read::GzDecoder::new(bytes)),
        Some("zst") => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
            read_all(decoder.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?)
        }
        _ => Ok(bytes.to_vec()),
    }
}

fn read_all(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(MODULE_LIMIT).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_unpack_by_the_end_of_their_name() {
        let module = vec![7u8; 5000];
        let zstd =
            ruzstd::encoding::compress_to_vec(&module[..], ruzstd::encoding::CompressionLevel::Fastest);
        for (name, bytes) in [
            ("a.ko", module.clone()),
            ("a.ko.xz", xz(&module).unwrap()),
            ("a.ko.gz", gzip(&module).unwrap()),
            ("a.ko.zst", zstd),
        ] {
            assert_eq!(unpack_module(Path::new(name), bytes).unwrap(), module, "{name}");
        }
        assert!(unpack_module(Path::new("a.ko.xz"), module).is_err());
    }

    #[test]
    fn every_initrd_ends_in_zeros_on_a_boundary() {
        for compression in Compression::ALL {
            let out = compression.compress(&[1; 5000]).unwrap();
            assert_eq!(
                (out.len() % PADDING, out.last_chunk()),
                (0, Some(&[0u8; 8])),
                "{}",
                compression.name()
            );
        }
    }
}
