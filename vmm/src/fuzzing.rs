//! What fuzz targets reach and no embedder needs: parts of a boot by themselves, without KVM.

use std::fs::File;

use vm_memory::GuestMemoryMmap;

use crate::boot::{self, BootError, BootFiles, cmdline};
use crate::config::MemoryConfig;
use crate::ram::{self, Mapping, RamError};

/// Guest memory that kernels are loaded into, one over the other.
pub struct Loader {
    ram: GuestMemoryMmap,
    size: u64,
    _mapping: Mapping,
}

impl Loader {
    /// Memory of `size` bytes.
    ///
    /// # Errors
    /// The host has none.
    pub fn new(size: u64) -> Result<Self, RamError> {
        let (ram, mapping) = ram::map(&MemoryConfig { size, ..MemoryConfig::default() })?;
        Ok(Self { ram, size, _mapping: mapping })
    }

    /// Loads a kernel, and an initrd behind it, as a boot does; the guest address that the guest would begin at.
    ///
    /// # Errors
    /// The files are no such things.
    pub fn load(&self, kernel: File, initrd: Option<File>) -> Result<u64, BootError> {
        let files = BootFiles {
            kernel: (kernel, "kernel".into()),
            initrd: initrd.map(|file| (file, "initrd".into())),
            cmdline: cmdline::DEFAULT.to_owned(),
        };
        Ok(boot::load(&self.ram, self.size, &files)?.entry.rip)
    }
}
