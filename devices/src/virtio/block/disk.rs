//! The image behind a disk: a raw file or a block device, locked, measured, never looked into.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use super::sys;
use crate::interrupt::Interrupt;

/// Bytes of a sector, whatever the disk's blocks are (5.2.4).
pub(super) const SECTOR: u64 = 512;
/// Bytes of a serial number (5.2.6).
pub(super) const SERIAL: usize = 20;

/// Bytes of zeros written at once.
const ZEROS: usize = 64 << 10;
/// What memory must be aligned to for any disk that goes around the page cache.
const ALIGN: usize = 4096;

/// How a disk is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Nothing is ever written.
    pub readonly: bool,
    /// The host's page cache is gone around.
    pub direct: bool,
    /// What the guest reads as the disk's serial number: the first 20 bytes of it.
    pub serial: String,
}

/// Why a file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened, or not so.
    #[error("the host cannot open it: {0}")]
    Open(io::Error),
    /// It is neither a file nor a block device.
    #[error("it is neither a regular file nor a block device")]
    Kind,
    /// Somebody else has it.
    #[error("another program uses it; two machines can share a disk only if both have it with readonly=on")]
    InUse,
    /// An inherited descriptor does not allow what is asked for.
    #[error("its descriptor is open for reading only; add readonly=on, or open it for reading and writing")]
    ReadOnly,
    /// An inherited descriptor goes through the page cache.
    #[error(
        "its descriptor was opened without O_DIRECT, which direct=on needs; open it so, or leave direct=on out"
    )]
    NotDirect,
    /// The host does not tell about it.
    #[error("the host does not tell its size: {0}")]
    Size(io::Error),
}

/// Sizes that a driver is told, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    /// What is read and written as a whole.
    pub(super) block: u32,
    /// What the medium reads and writes as a whole.
    pub(super) physical: u32,
    /// The best sizes: at least, and if possible.
    pub(super) least: u32,
    pub(super) best: u32,
}

/// An image that is a disk.
#[derive(Debug)]
pub struct Disk {
    pub(super) file: File,
    is_device: bool,
    pub(super) readonly: bool,
    direct: bool,
    pub(super) serial: [u8; SERIAL],
    pub(super) geometry: Geometry,
    sectors: AtomicU64,
    /// To be raised when the size has changed, while there is a driver.
    changed: Mutex<Option<Interrupt>>,
}

impl Disk {
    /// Opens the image at `path`, for this process alone unless it is only read.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn open(path: &Path, options: &Options) -> Result<Self, DiskError> {
        // Before it is opened: opening a FIFO waits, and opening a device may do something.
        let kind = std::fs::metadata(path).map_err(DiskError::Open)?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            return Err(DiskError::Kind);
        }
        let mut flags = if options.direct { libc::O_DIRECT } else { 0 };
        if is_device && !options.readonly {
            // A device that the host has mounted, or another program holds so, is busy (open(2)).
            flags |= libc::O_EXCL;
        }
        let file = OpenOptions::new().read(true).write(!options.readonly).custom_flags(flags).open(path);
        let busy = |e: io::Error| match e.raw_os_error() {
            Some(libc::EBUSY) => DiskError::InUse,
            _ => DiskError::Open(e),
        };
        Self::new(file.map_err(busy)?, options)
    }

    /// Takes `file`, which was opened by somebody else, as a disk.
    ///
    /// # Errors
    /// See [`DiskError`].
    pub fn new(file: File, options: &Options) -> Result<Self, DiskError> {
        let kind = file.metadata().map_err(DiskError::Open)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind);
        }
        suits(&file, options)?;
        lock(&file, options.readonly)?;
        let mut serial = [0; SERIAL];
        serial.iter_mut().zip(options.serial.bytes()).for_each(|(to, from)| *to = from);
        let disk = Self {
            geometry: geometry(&file, kind.is_block_device(), options.direct),
            is_device: kind.is_block_device(),
            readonly: options.readonly,
            direct: options.direct,
            serial,
            sectors: AtomicU64::new(0),
            changed: Mutex::new(None),
            file,
        };
        disk.measure().map_err(DiskError::Size)?;
        Ok(disk)
    }

    /// Sectors there are.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Looks how large the image is now, and tells the driver if that has changed; the size in bytes.
    ///
    /// # Errors
    /// The host does not tell.
    pub fn measure(&self) -> io::Result<u64> {
        // Reads and writes have offsets of their own, so nobody minds where this one goes.
        let bytes = (&self.file).seek(SeekFrom::End(0))?;
        let sectors = bytes / SECTOR;
        if self.sectors.swap(sectors, Ordering::AcqRel) != sectors
            && let Some(changed) = &*self.changed.lock().unwrap_or_else(PoisonError::into_inner)
        {
            changed.raise();
        }
        Ok(bytes)
    }

    /// From now on, has `changed` raised when the size changes.
    pub(super) fn tell(&self, changed: Option<Interrupt>) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changed;
    }

    /// Whether reads and writes never wait.
    pub(super) fn is_in_memory(&self) -> bool {
        // A device's node lies on a devtmpfs, which says nothing about the device.
        !self.is_device && sys::is_in_memory(&self.file)
    }

    /// Gives back what a range holds; afterwards it reads as anything.
    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let done = if self.is_device {
            sys::discard(&self.file, offset, len)
        } else {
            self.allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len)
        };
        // A host that cannot need not (5.2.6.2): it was an offer.
        done.or_else(|e| if is_unsupported(&e) { Ok(()) } else { Err(e) })
    }

    /// Makes a range read as zeros; with `unmap` it may be given back.
    pub(super) fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        let done =
            if unmap { self.allocate(hole, offset, len) } else { Err(io::ErrorKind::Unsupported.into()) };
        let done = done.or_else(|_| self.allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len));
        done.or_else(|e| if is_unsupported(&e) { self.write_zeros(offset, len) } else { Err(e) })
    }

    fn allocate(&self, how: FallocateFlags, offset: u64, len: u64) -> io::Result<()> {
        let number = |n| libc::off_t::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
        let how = how | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, how, number(offset)?, number(len)?)?)
    }

    fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        let room = if self.direct { ZEROS + ALIGN } else { ZEROS };
        let buffer = vec![0; room];
        let skip = if self.direct { buffer.as_ptr().align_offset(ALIGN) } else { 0 };
        let zeros = buffer.get(skip..skip + ZEROS).unwrap_or_default();
        while len > 0 {
            let step = zeros.get(..usize::try_from(len).unwrap_or(ZEROS).min(ZEROS)).unwrap_or(zeros);
            self.file.write_all_at(step, offset)?;
            offset += step.len() as u64;
            len -= step.len() as u64;
        }
        Ok(())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY | libc::EINVAL))
        || error.kind() == io::ErrorKind::Unsupported
}

/// Whether the descriptor allows what is asked for.
fn suits(file: &File, options: &Options) -> Result<(), DiskError> {
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|e| DiskError::Open(e.into()))?;
    let flags = OFlag::from_bits_truncate(flags);
    if !options.readonly && flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
        return Err(DiskError::ReadOnly);
    }
    if options.direct && !flags.contains(OFlag::O_DIRECT) {
        return Err(DiskError::NotDirect);
    }
    Ok(())
}

/// How long a lock is waited for: a machine that was killed keeps its own until the kernel has done its last request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Locks the whole file, for as long as the descriptor or a copy of it is open.
fn lock(file: &File, shared: bool) -> Result<(), DiskError> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    #[allow(clippy::cast_possible_truncation)] // three small numbers
    let all =
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    let end = Instant::now() + PATIENCE;
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&all)) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) if Instant::now() < end => {
                std::thread::sleep(PATIENCE / 100);
            }
            Err(nix::Error::EAGAIN | nix::Error::EACCES) => return Err(DiskError::InUse),
            Err(why) => {
                tracing::warn!("a disk cannot be locked ({why}); see to it that nobody else writes to it");
                return Ok(());
            }
        }
    }
}

fn geometry(file: &File, is_device: bool, direct: bool) -> Geometry {
    let or = |n: u32, default: u32| if n.is_power_of_two() && n >= 512 { n } else { default };
    if is_device {
        let limits = sys::limits(file);
        let block = or(limits.logical, 512);
        let physical = or(limits.physical, block);
        return Geometry { block, physical, least: or(limits.least, physical), best: limits.best };
    }
    let page = file.metadata().ok().and_then(|m| u32::try_from(m.blksize()).ok()).unwrap_or(0);
    let block = if direct { least_direct(file) } else { 512 };
    // A file system's blocks are what is best written as a whole, up to some sensible size.
    let physical = or(page, 4096).min(64 << 10).max(block);
    Geometry { block, physical, least: physical, best: 0 }
}

/// The smallest read around the page cache that the host takes.
fn least_direct(file: &File) -> u32 {
    let buffer = &mut vec![0u8; 2 * ALIGN];
    let skip = buffer.as_ptr().align_offset(ALIGN);
    let reads = |n: usize| buffer.get_mut(skip..skip + n).is_some_and(|part| file.read_at(part, 0).is_ok());
    if [512].into_iter().all(reads) { 512 } else { 4096 }
}
