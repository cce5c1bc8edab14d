//! The initial RAM disk: read as high below the 32-bit hole as it fits, out of the kernel's way.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use crate::arch::layout;

/// Kernels without `XLF_CAN_BE_LOADED_ABOVE_4G` take an initrd up to here (`initrd_addr_max`).
const ADDR_MAX: u64 = 0x8000_0000;

/// Where the initrd lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Initrd {
    /// Guest address, page aligned, below 2 GiB.
    pub(super) address: u32,
    /// Size in bytes.
    pub(super) size: u64,
}

/// Reads `file` into `ram` behind `kernel_end`.
pub(super) fn load(
    ram: &GuestMemoryMmap,
    ram_size: u64,
    kernel_end: u64,
    mut file: &File,
    path: &Path,
) -> Result<Initrd, BootError> {
    let read = |source| BootError::Read { what: "initrd", path: path.to_owned(), source };
    let size = file.metadata().map_err(read)?.len();
    let too_large = || BootError::InitrdTooLarge { path: path.to_owned(), mib: size.div_ceil(1 << 20) };
    let address = place(ram_size, kernel_end, size).ok_or_else(too_large)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let count = usize::try_from(size).map_err(|_| too_large())?;
    ram.read_exact_volatile_from(GuestAddress(u64::from(address)), &mut file, count)?;
    Ok(Initrd { address, size })
}

/// The highest page-aligned place for `size` bytes; `None` when there is none behind the kernel.
fn place(ram_size: u64, kernel_end: u64, size: u64) -> Option<u32> {
    let top = ram_size.min(layout::HOLE_START).min(ADDR_MAX);
    let address = top.checked_sub(size)? & !0xfff;
    (address >= kernel_end).then(|| u32::try_from(address).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_initrd_lies_between_the_kernel_and_the_end_of_low_memory(
            mib in 64u64..8192, end in 0x100_0000u64..0x800_0000, size in 1u64..1 << 33
        ) {
            if let Some(at) = place(mib << 20, end, size) {
                let at = u64::from(at);
                prop_assert!(at >= end && at % 4096 == 0);
                prop_assert!(at + size <= (mib << 20).min(layout::HOLE_START));
            } else {
                prop_assert!(size + end + 4096 > (mib << 20).min(ADDR_MAX));
            }
        }
    }
}
