//! Any bytes as a bzImage, or as the payload of one, are unpacked to a whole ELF or refused with one sentence.
#![no_main]

use guest_kernel::elf::Elf;
use guest_kernel::{detect, unpack};
use libfuzzer_sys::fuzz_target;

/// Where a header says how much its kernel unpacks to (Documentation/arch/x86/boot.rst).
const INIT_SIZE: usize = 0x260;
/// Enough to see what happens at the limit; a gigabyte of zeros only costs time.
const LIMIT: u32 = 1 << 20;

/// A bzImage around `payload`: one setup sector, protocol 2.15.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1024];
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    out[0x1f1] = 1;
    out[0x1f4..0x1f8].copy_from_slice(&size(payload.len().div_ceil(16)));
    out[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    out[0x202..0x206].copy_from_slice(b"HdrS");
    out[0x206..0x208].copy_from_slice(&[0x0f, 2]);
    out[0x24c..0x250].copy_from_slice(&size(payload.len()));
    out.extend(payload);
    out.resize(1024 + payload.len().next_multiple_of(16), 0);
    out
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    // Half of the inputs are whole files, which are hard to get right; the others begin behind the header.
    let mut image = if how % 2 == 0 { rest.to_vec() } else { bzimage(rest) };
    if let Some(limit) = image.get_mut(INIT_SIZE..INIT_SIZE + 4) {
        let said = u32::from_le_bytes([limit[0], limit[1], limit[2], limit[3]]);
        limit.copy_from_slice(&said.clamp(1, LIMIT).to_le_bytes());
    }
    let _ = detect(&image);
    match unpack(&image) {
        Ok(vmlinux) => {
            let elf = Elf::parse(&vmlinux).expect("what was unpacked is a whole ELF");
            let _ = elf.build_id();
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
});
