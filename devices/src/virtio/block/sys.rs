//! What the host's kernel does for a disk: reads, writes and flushes of guest memory, now or by io_uring; questions
//! about block devices.
#![allow(unsafe_code)] // system calls on iovecs of guest memory, and ioctls

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::ioctl_io_nr;

use crate::memory::Iovecs;

// linux/fs.h
ioctl_io_nr!(BLKSSZGET, 0x12, 104);
ioctl_io_nr!(BLKPBSZGET, 0x12, 123);
ioctl_io_nr!(BLKIOMIN, 0x12, 120);
ioctl_io_nr!(BLKIOOPT, 0x12, 121);

/// The request that discards blocks, for the list of a thread's calls.
pub(super) const BLKDISCARD: u32 = 0x1277;

/// linux/magic.h, which the libc crate leaves out.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Limits of a block device, in bytes; 0 where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) logical: u32,
    pub(super) physical: u32,
    pub(super) least: u32,
    pub(super) best: u32,
}

/// Asks the block device `file` for its limits.
pub(super) fn limits(file: &File) -> Limits {
    let ask = |request| {
        let mut answer: libc::c_uint = 0;
        // SAFETY: each of these requests writes one int, which `answer` has room for; the result is checked.
        let told = unsafe { ioctl_with_mut_ref(file, request, &mut answer) };
        if told == 0 { answer } else { 0 }
    };
    Limits {
        logical: ask(BLKSSZGET()),
        physical: ask(BLKPBSZGET()),
        least: ask(BLKIOMIN()),
        best: ask(BLKIOOPT()),
    }
}

/// Discards `len` bytes from `offset` on of the block device `file`.
pub(super) fn discard(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the request reads two u64, which `range` is.
    let done = unsafe { ioctl_with_ref(file, BLKDISCARD.into(), &range) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the file's system is in memory, where nothing is ever waited for.
pub(super) fn is_in_memory(file: &File) -> bool {
    // SAFETY: all of the structure's fields are numbers, for which zeros are values.
    let mut system: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills the structure, which lives here.
    let told = unsafe { libc::fstatfs(file.as_raw_fd(), &mut system) };
    told == 0 && [libc::TMPFS_MAGIC, RAMFS_MAGIC].contains(&system.f_type)
}

/// A request to the host.
#[derive(Debug)]
pub(super) enum Op {
    /// Fill the memory from `offset` on.
    Read { offset: u64, memory: Iovecs },
    /// Write the memory from `offset` on; `durable`: to be on the disk when it is done.
    Write { offset: u64, memory: Iovecs, durable: bool },
    /// Put on the disk what was written.
    Flush,
}

impl Op {
    /// Bytes of data that are still to be moved.
    pub(super) fn left(&self) -> usize {
        match self {
            Self::Read { memory, .. } | Self::Write { memory, .. } => memory.left(),
            Self::Flush => 0,
        }
    }

    /// Passes over `n` bytes that are done; true if that was all.
    pub(super) fn advance(&mut self, n: usize) -> bool {
        match self {
            Self::Read { offset, memory } | Self::Write { offset, memory, .. } => {
                *offset = offset.saturating_add(n as u64);
                memory.advance(n);
                memory.left() == 0
            }
            Self::Flush => true,
        }
    }

    /// Does it now; bytes done.
    pub(super) fn now(&self, file: &File) -> io::Result<usize> {
        let fd = file.as_raw_fd();
        let done = match self {
            Self::Read { offset, memory } => {
                let (parts, n) = raw(memory);
                // SAFETY: `memory` holds its parts mapped, for longer than the call takes.
                unsafe { libc::preadv(fd, parts, n, position(*offset)?) }
            }
            Self::Write { offset, memory, durable } => {
                let (parts, n) = raw(memory);
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                // SAFETY: as above.
                unsafe { libc::pwritev2(fd, parts, n, position(*offset)?, flags) }
            }
            Self::Flush => return file.sync_data().map(|()| 0),
        };
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }

    fn entry(&self) -> squeue::Entry {
        const FILE: types::Fixed = types::Fixed(0);
        match self {
            Self::Read { offset, memory } => {
                let parts = memory.parts();
                opcode::Readv::new(FILE, parts.as_ptr(), count(parts)).offset(*offset).build()
            }
            Self::Write { offset, memory, durable } => {
                let parts = memory.parts();
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(FILE, parts.as_ptr(), count(parts))
                    .offset(*offset)
                    .rw_flags(flags)
                    .build()
            }
            Self::Flush => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        }
    }
}

fn count(parts: &[libc::iovec]) -> u32 {
    // More than the kernel takes; it says so.
    u32::try_from(parts.len()).unwrap_or(u32::MAX)
}

fn raw(memory: &Iovecs) -> (*const libc::iovec, libc::c_int) {
    let parts = memory.parts();
    (parts.as_ptr(), libc::c_int::try_from(parts.len()).unwrap_or(libc::c_int::MAX))
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Requests that the kernel has, each with what it is for.
///
/// Contract: what the kernel may touch (a request's memory) lives here until the kernel is done with it, whatever
/// becomes of this value.
pub(super) struct Ring<T> {
    ring: IoUring,
    flights: Vec<Option<(Op, T)>>,
    free: Vec<usize>,
    /// Of all flights together.
    bytes: usize,
}

impl<T> Ring<T> {
    /// A ring for at most `room` requests at once to `file` alone, that can do nothing but what [`Op`] names.
    ///
    /// # Errors
    /// The host's kernel has no io_uring, or forbids it.
    pub(super) fn new(file: &File, room: u16) -> io::Result<Self> {
        let ring = IoUring::builder().setup_r_disabled().dontfork().build(room.into())?;
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Readv::CODE),
            Restriction::sqe_op(opcode::Writev::CODE),
            Restriction::sqe_op(opcode::Fsync::CODE),
            Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        let room = usize::from(room);
        Ok(Self { ring, flights: (0..room).map(|_| None).collect(), free: (0..room).collect(), bytes: 0 })
    }

    /// Requests the kernel has.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    /// Bytes that the kernel has to move for them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a request for the next [`Ring::submit`]; it comes back where there is no room for it.
    pub(super) fn start(&mut self, op: Op, what: T) -> Result<(), (Op, T)> {
        let Some(slot) = self.free.pop() else { return Err((op, what)) };
        let entry = op.entry().user_data(slot as u64);
        // SAFETY: the parts' array and the memory it names live in `flights` until the kernel has answered: see
        // `reap`, `settle` and `drop`. Moving the vector's owner does not move the array on the heap.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        match (pushed, self.flights.get_mut(slot)) {
            (Ok(()), Some(flight)) => {
                self.bytes += op.left();
                *flight = Some((op, what));
                Ok(())
            }
            // The ring has as much room as there are slots.
            _ => {
                self.free.push(slot);
                Err((op, what))
            }
        }
    }

    /// Hands the queued requests to the kernel.
    ///
    /// # Errors
    /// The kernel does not take them, nor will.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(_) => {}
                // Short of something for a moment.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {
                    std::thread::yield_now();
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next request that is done, with the bytes done.
    pub(super) fn reap(&mut self) -> Option<(Op, T, io::Result<usize>)> {
        let done = self.ring.completion().next()?;
        let slot = usize::try_from(done.user_data()).ok()?;
        let (op, what) = self.flights.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.bytes -= op.left();
        let result = done.result();
        Some((op, what, usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))))
    }

    /// Waits until a request is done.
    ///
    /// # Errors
    /// The kernel does not tell any more.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl<T> AsRawFd for Ring<T> {
    /// Readable while there is something to reap.
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.wait().is_err() {
                // The kernel may still have them: rather lost than freed.
                std::mem::forget(std::mem::take(&mut self.flights));
                return;
            }
            while self.reap().is_some() {}
        }
    }
}
