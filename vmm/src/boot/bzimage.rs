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
    // Where every bzImage goes, whatever its header says: that is a number of the file's.
    let start = Some(GuestAddress(layout::HIGH_RAM));
    let loaded = BzImage::load(ram, start, &mut file, start).map_err(|e| {
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
    if loaded.kernel_end <= start + ENTRY_64 {
        return Err("ends before its 64-bit entry; it is cut off or damaged".into());
    }
    let preferred = setup.pref_address.max(start);
    let end = preferred.saturating_add(u64::from(init_size)).max(loaded.kernel_end);
    Ok(LoadedKernel {
        entry: start + ENTRY_64,
        end,
        copied: loaded.kernel_end.saturating_sub(start),
        setup: Some(Box::new(setup)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A bzImage of one setup sector and `code` bytes, whose header wants it at `at`.
    fn load_image(code: usize, at: u32) -> Result<LoadedKernel, String> {
        let mut image = vec![0; 1024 + code];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&PROTOCOL_2_12.to_le_bytes());
        image[0x211] = 1; // LOADED_HIGH
        image[0x214..0x218].copy_from_slice(&at.to_le_bytes());
        image[0x236] = 1; // XLF_KERNEL_64
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&image).expect("written");
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).expect("memory");
        load(&ram, &file)
    }

    #[test]
    fn a_kernel_begins_where_kernels_do_wherever_its_header_wants_it() {
        for at in [0x10_0000, 0x20_0000, u32::MAX] {
            let loaded = load_image(0x400, at).expect("loaded");
            assert_eq!((loaded.entry, loaded.end), (0x10_0200, 0x10_0400), "{at:#x}");
        }
    }

    #[test]
    fn a_kernel_without_code_is_refused() {
        for code in [0, 0x200] {
            assert!(load_image(code, 0x10_0000).expect_err("refused").contains("cut off"), "{code:#x}");
        }
    }
}
