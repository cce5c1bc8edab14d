//! From files to a guest that can be entered: kernel, initrd, command line, boot parameters.
//!
//! 1. The kernel's loadable parts are read straight into guest memory, page cache to guest page, once.
//! 2. The initrd goes as high below the 32-bit hole as it fits.
//! 3. The zero page tells the kernel where everything is; [`Entry`] says where it begins.

mod bzimage;
pub(crate) mod cmdline;
mod elf;
mod initrd;
mod params;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use vm_memory::GuestMemoryMmap;

use crate::arch::regs::{self, Entry};

/// Why the guest cannot be booted from these files.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file cannot be read.
    #[error("{what} {path} cannot be read: {source}")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The kernel is none, or damaged.
    #[error("kernel {path} {why}")]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The kernel cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] guest_kernel::Error),
    /// The initrd has no room.
    #[error(
        "initrd {path} of {mib} MiB does not fit behind the kernel in guest memory; give the guest more memory \
         or make the initrd smaller"
    )]
    InitrdTooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size, rounded up.
        mib: u64,
    },
    /// The command line is too long for the kernel.
    #[error("the kernel command line has {len} bytes; a kernel takes at most {max}")]
    Cmdline {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// A structure of ours did not fit in guest memory.
    #[error("boot structures cannot be written to guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct LoadedKernel {
    /// 64-bit entry point.
    pub(crate) entry: u64,
    /// First guest address behind everything the kernel claims before it reads its memory map.
    pub(crate) end: u64,
    /// Bytes copied into guest memory.
    pub(crate) copied: u64,
    /// The setup header of a bzImage, which goes on into the zero page.
    pub(crate) setup: Option<Box<linux_loader::bootparam::setup_header>>,
}

/// What to boot, opened.
pub(crate) struct BootFiles {
    /// The kernel and the path it came from.
    pub(crate) kernel: (File, PathBuf),
    /// The initrd likewise.
    pub(crate) initrd: Option<(File, PathBuf)>,
    /// The whole command line.
    pub(crate) cmdline: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) entry: Entry,
    /// Bytes copied from files to guest memory.
    pub(crate) copied: u64,
}

/// Loads everything and writes the structures the entry needs.
pub(crate) fn load(ram: &GuestMemoryMmap, ram_size: u64, files: &BootFiles) -> Result<Booted, BootError> {
    let (file, path) = &files.kernel;
    let kernel = load_kernel(ram, file, path)?;
    let initrd = match &files.initrd {
        Some((file, path)) => Some(initrd::load(ram, ram_size, kernel.end, file, path)?),
        None => None,
    };
    cmdline::write(ram, &files.cmdline)?;
    params::write(ram, ram_size, &kernel, initrd)?;
    regs::write_tables(ram)?;
    let copied = kernel.copied + initrd.map_or(0, |i| i.size);
    Ok(Booted { entry: Entry { rip: kernel.entry }, copied })
}

fn load_kernel(ram: &GuestMemoryMmap, file: &File, path: &Path) -> Result<LoadedKernel, BootError> {
    let fail = |why: String| BootError::Kernel { path: path.to_owned(), why };
    if elf::is_elf(file) { elf::load(ram, file) } else { bzimage::load(ram, file) }.map_err(fail)
}
