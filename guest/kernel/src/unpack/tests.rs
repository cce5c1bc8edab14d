// Sizes of test inputs fit any field.
#![allow(clippy::cast_possible_truncation)]

use super::*;
use crate::elf::tests::{elf_with, note};
use std::io::Write;

/// A bzImage around a payload: one setup sector, protocol 2.15, no `init_size` limit.
pub(crate) fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; 2 * 512];
    out[..2].copy_from_slice(b"MZ");
    out[0x1f1] = 1;
    out[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    let stub = 32;
    let system = (stub + payload.len()).next_multiple_of(16);
    out[0x1f4..0x1f8].copy_from_slice(&(system as u32 / 16).to_le_bytes());
    out[0x248..0x24c].copy_from_slice(&(stub as u32).to_le_bytes());
    out[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    out.resize(1024 + stub, 0xcc);
    out.extend(payload);
    out.resize(1024 + system, 0);
    out
}

fn with_init_size(mut image: Vec<u8>, size: u32) -> Vec<u8> {
    image[0x260..0x264].copy_from_slice(&size.to_le_bytes());
    image
}

/// As the kernel's build appends it.
fn with_trailer(mut payload: Vec<u8>, size: usize) -> Vec<u8> {
    payload.extend((size as u32).to_le_bytes());
    payload
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut out = LZ4_MAGIC.to_le_bytes().to_vec();
    for piece in bytes.chunks(LZ4_BLOCK) {
        let block = lz4_flex::block::compress(piece);
        out.extend((block.len() as u32).to_le_bytes());
        out.extend(block);
    }
    with_trailer(out, bytes.len())
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    with_trailer(ruzstd::encoding::compress_to_vec(bytes, level), bytes.len())
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(6);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    with_trailer(writer.finish().unwrap(), bytes.len())
}

/// Larger than one lz4 piece, with calls (0xe8) for the branch filter.
fn vmlinux() -> Vec<u8> {
    let body: Vec<u8> = (0..LZ4_BLOCK as u32 / 4 + 5000)
        .flat_map(|word| if word % 3 == 0 { [0x90, 0xe8, 0, 0] } else { (word / 7).to_le_bytes() })
        .collect();
    elf_with(&body, &note(3, b"GNU\0", &[3; 20]))
}

#[test]
fn every_compression_gives_the_vmlinux_back() {
    let elf = vmlinux();
    for (name, payload) in [
        ("gzip", gzip(&elf)),
        ("xz", xz(&elf)),
        ("lz4", lz4(&elf)),
        ("zstd", zstd(&elf)),
        ("none", elf.clone()),
    ] {
        assert!(unpack(&bzimage(&payload)).unwrap() == elf, "{name}");
    }
}

#[test]
fn kinds_are_told_apart() {
    assert_eq!(detect(b""), Kind::Empty);
    assert_eq!(detect(b"\x7fE"), Kind::Truncated);
    assert_eq!(detect(b"MZ\0\0"), Kind::Truncated);
    assert_eq!(detect(&elf_with(b"x", b"")), Kind::Elf);
    assert_eq!(detect(&bzimage(b"x")), Kind::BzImage);
    assert_eq!(detect(&[0x30; 5000]), Kind::Unknown);
}

#[test]
fn other_compressions_are_left_to_the_kernel() {
    for magic in [&b"BZh91AY"[..], b"\x5d\0\0\x80", b"\x89LZO\0", b"what?"] {
        let error = unpack(&bzimage(magic)).unwrap_err();
        assert!(error.is_fallback(), "{error}");
    }
}

#[test]
fn output_past_init_size_is_refused() {
    let elf = elf_with(&[1; 5000], b"");
    for payload in [gzip(&elf), xz(&elf), lz4(&elf), zstd(&elf)] {
        let error = unpack(&with_init_size(bzimage(&payload), 4096)).unwrap_err();
        assert!(matches!(error, UnpackError::TooLarge { limit: 4096 }), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let image = bzimage(&lz4(&elf_with(&[1; 5000], b"")));
    for length in 0..image.len() {
        assert!(unpack(&image[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn flipped_bits_never_panic() {
    let elf = elf_with(&[5; 300], &note(3, b"GNU\0", &[3; 20]));
    for payload in [gzip(&elf), xz(&elf), lz4(&elf), zstd(&elf)] {
        let image = with_init_size(bzimage(&payload), 1 << 20);
        for bit in (0x1f1 * 8..0x268 * 8).chain(1024 * 8..image.len() * 8).step_by(7) {
            let mut broken = image.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let _ = unpack(&broken);
        }
    }
}

#[test]
fn a_payload_that_is_no_elf_is_refused() {
    let error = unpack(&bzimage(&gzip(b"not a kernel"))).unwrap_err();
    assert!(matches!(error, UnpackError::NotElf(_)), "{error}");
}

#[test]
fn a_corrupt_payload_names_its_compression() {
    let mut payload = xz(&vmlinux());
    let middle = payload.len() / 2;
    payload[middle] ^= 0x55;
    let error = unpack(&bzimage(&payload)).unwrap_err();
    assert_eq!(error.to_string(), "its xz payload is corrupt");
}

#[test]
fn damage_that_an_lz4_payload_unpacks_with_shows_by_its_size() {
    let elf = vmlinux();
    let mut payload = lz4(&elf);
    let at = payload.len() / 2;
    payload[at..at + 64].fill(0xff);
    let error = unpack(&bzimage(&payload)).unwrap_err();
    assert_eq!(error.to_string(), "its lz4 payload is corrupt");
    let mut shorter = lz4(&elf);
    let end = shorter.len() - 4;
    shorter[end..].copy_from_slice(&5u32.to_le_bytes());
    let UnpackError::Corrupt { source, .. } = unpack(&bzimage(&shorter)).unwrap_err() else {
        panic!("another fault");
    };
    assert!(source.to_string().ends_with("and its end says 5"), "{source}");
}

#[test]
fn an_old_protocol_is_left_to_the_kernel() {
    let mut image = bzimage(b"x");
    image[0x206..0x208].copy_from_slice(&0x204u16.to_le_bytes());
    assert!(unpack(&image).unwrap_err().is_fallback());
}
