//! A bzImage as it is: the loader's own path, for payloads that cannot be unpacked on the host. The guest then
//! unpacks itself, which costs it seconds where the host would have needed none.

use std::fs::File;

use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::LoadedKernel;
use crate::arch::layout;

/// The 64-bit entry lies this far into the protected-mode part (Documentation/arch/x86/boot.rst).
const ENTRY_64: u64 = 0x200;
/// xloadflags: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1;
/// First version of the boot protocol with `init_size` and `xloadflags` (2.12).
const PROTOCOL_2_12: u16 = 0x020c;

/// Loads `file` into `ram`. The error is the rest of a sentence that begins "kernel PATH".
pub(super) fn load(ram: &GuestMemoryMmap, mut file: &File) -> Result<LoadedKernel, String> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::Start(0)).map_err(|e| format!("cannot be read: {e}"))?;
    let loaded = BzImage::load(ram, None, &mut file, Some(GuestAddress(layout::HIGH_RAM))).map_err(|e| {
        format!("is neither an ELF vmlinux nor a bzImage that can be loaded ({e}); give a vmlinuz")
    })?;
    let setup = loaded.setup_header.ok_or("has no setup header")?;
    let (version, flags, init_size) = (setup.version, setup.xloadflags, setup.init_size);
    if version < PROTOCOL_2_12 || flags & XLF_KERNEL_64 == 0 {
        return Err(format!(
            "speaks boot protocol {}.{:02} without a 64-bit entry; it takes a 64-bit kernel of version 3.8 or later",
            version >> 8,
            version & 0xff
        ));
    }
    let start = loaded.kernel_load.0;
    let preferred = setup.pref_address.max(start);
    let end = preferred.saturating_add(u64::from(init_size)).max(loaded.kernel_end);
    Ok(LoadedKernel {
        entry: start + ENTRY_64,
        end,
        copied: loaded.kernel_end.saturating_sub(start),
        setup: Some(Box::new(setup)),
    })
}
