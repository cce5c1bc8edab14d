//! Guest memory: where it comes from and where the guest sees it.
//!
//! One anonymous (or memfd) mapping, aligned to 2 MiB so that transparent huge pages back it from the first
//! touch: a stock kernel then boots with some forty nested page faults instead of sixteen thousand. The guest
//! sees it from address 0 up to the 32-bit hole, and the rest from 4 GiB on.

mod sys;

pub(crate) use sys::Mapping;

use std::io;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

use crate::arch::layout;
use crate::config::MemoryConfig;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused the mapping.
    #[error("the host could not give {mib} MiB of guest memory ({how}): {source}")]
    Map {
        /// How much was asked for.
        mib: u64,
        /// From where.
        how: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The pieces do not make a memory map.
    #[error("guest memory of {0} bytes cannot be laid out")]
    Layout(u64),
}

/// Maps guest memory as `config` says. Nothing is touched: pages come when the guest uses them.
///
/// The second value owns the addresses: keep it until the machine is gone, and drop it last.
pub(crate) fn map(config: &MemoryConfig) -> Result<(GuestMemoryMmap, Mapping), RamError> {
    let size = usize::try_from(config.size).map_err(|_| RamError::Layout(config.size))?;
    let how = match (config.hugepages, config.shared) {
        (false, false) => "anonymous memory",
        (false, true) => "a memfd",
        (true, false) => "2 MiB hugetlb pages",
        (true, true) => "a memfd of 2 MiB hugetlb pages",
    };
    let mapping = sys::map(size, config.shared, config.hugepages).map_err(|source| RamError::Map {
        mib: config.size >> 20,
        how,
        source,
    })?;
    let regions: Option<Vec<_>> = layout::ram_ranges(config.size)
        .map(|(guest, offset, len)| GuestRegionMmap::new(mapping.part(offset, len)?, GuestAddress(guest)))
        .collect();
    let ram =
        regions.and_then(|r| GuestMemoryMmap::from_regions(r).ok()).ok_or(RamError::Layout(config.size))?;
    Ok((ram, mapping))
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn whoever_shares_guest_memory_cannot_take_it_away() {
        let config = MemoryConfig { size: 64 << 20, shared: true, ..MemoryConfig::default() };
        let (ram, _mapping) = map(&config).expect("memory");
        let region = ram.iter().next().expect("a region");
        let file = region.file_offset().expect("shared").file();
        for len in [0, 32 << 20, 128 << 20] {
            let why = file.set_len(len).expect_err("sealed");
            assert_eq!(why.raw_os_error(), Some(libc::EPERM));
        }
    }
}
