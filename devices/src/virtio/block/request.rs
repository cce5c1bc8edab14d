//! Requests as a driver writes them (VIRTIO 1.3, 5.2.6): checked, and turned into what the host is asked for.

use vm_memory::GuestMemoryMmap;

use super::disk::{Disk, SECTOR, SERIAL};
use super::sys::Op;
use super::{F_DISCARD, F_FLUSH, F_WRITE_ZEROES};
use crate::memory::{Iovecs, Mapped};
use crate::virtio::Features;
use crate::virtio::chain::Chain;
use crate::virtio::queue::QueueError;

/// What a request may ask for in ranges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many ranges.
    pub(super) ranges: u32,
    /// Sectors of one.
    pub(super) sectors: u32,
}

/// Of discard: 2 GiB each, which the host only has to forget.
pub(super) const DISCARD: Limits = Limits { ranges: 16, sectors: 1 << 22 };
/// Of write-zeroes: 64 MiB, which some hosts have to write, and a reset waits for it.
pub(super) const ZEROES: Limits = Limits { ranges: 1, sectors: 1 << 17 };
/// Data of one request: a driver could have as much as 4 GiB of them by naming the same memory again and again.
const LARGEST: usize = 256 << 20;

/// What the driver reads as a request's result (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Types of requests.
mod kind {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// What is to be done for a request.
#[derive(Debug)]
pub(super) enum Step {
    /// The host has to do this.
    Host(Op),
    /// These ranges are to be given back, or to become zeros.
    Ranges(Vec<Range>),
    /// It is over.
    Over(Status),
}

/// A range of a discard or write-zeroes request, in bytes, within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) what: Fate,
}

/// What becomes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Discard,
    Zero { unmap: bool },
}

const HEADER: usize = 16;
const RANGE: usize = 16;
/// The flag of a range: zeros may be made by giving its blocks back.
const UNMAP: u32 = 1;

/// Understands the request at the front of `chain`, whose data stay where they are.
///
/// # Errors
/// Guest memory that was there is gone.
pub(super) fn understand(
    chain: &mut Chain,
    ram: &Mapped,
    disk: &Disk,
    features: Features,
) -> Result<Step, QueueError> {
    let mut header = [0; HEADER];
    if chain.is_astray() || chain.read(ram, &mut header)? < HEADER || chain.writable() == 0 {
        return Ok(Step::Over(Status::IoError));
    }
    let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
    let durable = !features.has(F_FLUSH);
    // The last byte is the status.
    let room = chain.writable() - 1;
    Ok(match kind {
        kind::IN => match within(disk, sector, room).filter(|_| room <= LARGEST) {
            Some(offset) => {
                Step::Host(Op::Read { offset, memory: Iovecs::of(chain.writable_buffers(), ram, room)? })
            }
            None => Step::Over(Status::IoError),
        },
        kind::OUT => match within(disk, sector, chain.readable())
            .filter(|_| !disk.readonly && chain.readable() <= LARGEST)
        {
            Some(offset) => {
                let memory = Iovecs::of(chain.readable_buffers(), ram, chain.readable())?;
                Step::Host(Op::Write { offset, memory, durable })
            }
            None => Step::Over(Status::IoError),
        },
        kind::FLUSH if features.has(F_FLUSH) => Step::Host(Op::Flush),
        kind::GET_ID => {
            chain.write(ram, disk.serial.get(..room.min(SERIAL)).unwrap_or_default())?;
            Step::Over(Status::Ok)
        }
        kind::DISCARD if features.has(F_DISCARD) => ranges(chain, ram, disk, true)?,
        kind::WRITE_ZEROES if features.has(F_WRITE_ZEROES) => ranges(chain, ram, disk, false)?,
        _ => Step::Over(Status::Unsupported),
    })
}

/// Bytes of data that a request moves.
pub(super) fn bytes(step: &Step) -> usize {
    match step {
        Step::Host(op) => op.left(),
        // Zeros may have to be written; what is given back costs nothing.
        Step::Ranges(ranges) => {
            let zeros = ranges.iter().filter(|range| range.what != Fate::Discard);
            zeros.map(|range| usize::try_from(range.len).unwrap_or(usize::MAX)).sum()
        }
        Step::Over(_) => 0,
    }
}

/// Gives the request its result.
///
/// # Errors
/// Guest memory that was there is gone.
pub(super) fn finish(chain: &mut Chain, ram: &GuestMemoryMmap, status: Status) -> Result<(), QueueError> {
    // A chain without room for it has no result. What was not read stays what it was: the driver goes by the status.
    if let Some(rest) = chain.writable().checked_sub(1) {
        chain.wrote(rest);
        chain.write(ram, &[status as u8])?;
    }
    Ok(())
}

/// The offset of a request of `len` bytes, if all of it lies on the disk.
fn within(disk: &Disk, sector: u64, len: usize) -> Option<u64> {
    let (offset, len) = (sector.checked_mul(SECTOR)?, len as u64);
    let whole = len.is_multiple_of(SECTOR);
    let end = offset.checked_add(len)?;
    (whole && end <= disk.sectors() * SECTOR).then_some(offset)
}

fn ranges(chain: &mut Chain, ram: &GuestMemoryMmap, disk: &Disk, discard: bool) -> Result<Step, QueueError> {
    let len = chain.readable();
    let limits = if discard { DISCARD } else { ZEROES };
    if disk.readonly || len == 0 || !len.is_multiple_of(RANGE) || len / RANGE > limits.ranges as usize {
        return Ok(Step::Over(Status::IoError));
    }
    let mut ranges = Vec::with_capacity(len / RANGE);
    for _ in 0..len / RANGE {
        let mut raw = [0; RANGE];
        chain.read(ram, &mut raw)?;
        match range(&raw, disk, discard, limits) {
            Ok(range) => ranges.push(range),
            Err(status) => return Ok(Step::Over(status)),
        }
    }
    Ok(Step::Ranges(ranges))
}

fn range(raw: &[u8; RANGE], disk: &Disk, discard: bool, limits: Limits) -> Result<Range, Status> {
    let (sector, sectors, flags) = (u64_at(raw, 0), u32_at(raw, 8), u32_at(raw, 12));
    // 5.2.6.2: a flag that is unknown, or has no meaning here.
    if flags & !UNMAP != 0 || (discard && flags != 0) {
        return Err(Status::Unsupported);
    }
    let len = u64::from(sectors) * SECTOR;
    let offset = usize::try_from(len).ok().and_then(|len| within(disk, sector, len));
    let offset = offset.filter(|_| sectors <= limits.sectors).ok_or(Status::IoError)?;
    let what = if discard { Fate::Discard } else { Fate::Zero { unmap: flags & UNMAP != 0 } };
    Ok(Range { offset, len, what })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}
