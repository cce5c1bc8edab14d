//! Requests to a disk, past the guest's page cache.
//!
//! Every block of the disk begins with its own offset, so that what is read is known to be what was asked for.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

/// What is stamped, and aligned for O_DIRECT.
pub(super) const BLOCK: usize = 4096;
/// The largest request.
pub(super) const LARGEST: usize = 128 << 10;

/// Requests for the guest's first disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Written, else read.
    pub write: bool,
    /// All over the disk, else from its beginning on.
    pub random: bool,
    /// Bytes of a request, whole blocks, 128 KiB at most.
    pub bytes: usize,
    /// How many of each thread.
    pub requests: u64,
    /// Threads, each with one request at a time.
    pub threads: u64,
}

#[repr(align(4096))]
pub(super) struct Buffer(pub(super) [u8; LARGEST]);

/// Writes a disk's image of `len` bytes.
///
/// # Errors
/// It cannot be written.
pub fn image(path: &Path, len: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut block = [0x5a; BLOCK];
    for at in (0..len).step_by(BLOCK) {
        stamp(&mut block, at);
        file.write_all(&block)?;
    }
    Ok(())
}

impl Disk {
    /// Makes the requests.
    pub(super) fn work(self) -> io::Result<()> {
        let workers: Vec<_> = (0..self.threads).map(|n| thread::spawn(move || self.alone(n))).collect();
        let ends =
            workers.into_iter().map(|w| w.join().map_err(|_| io::Error::other("a thread panicked"))?);
        ends.collect::<Vec<_>>().into_iter().collect()
    }

    fn alone(self, thread: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut disk = options.read(true).write(self.write).custom_flags(libc::O_DIRECT).open("/dev/vda")?;
        let places = disk.seek(SeekFrom::End(0))? / self.bytes as u64;
        let mut buffer = Box::new(Buffer([0x5a; LARGEST]));
        let bytes = buffer.0.get_mut(..self.bytes).ok_or(io::ErrorKind::InvalidInput)?;
        for (n, random) in (0..).zip(sequence(thread + 1, self.requests)) {
            let place = if self.random { random } else { n };
            self.one(&disk, place.checked_rem(places).unwrap_or(0) * bytes.len() as u64, bytes)?;
        }
        Ok(())
    }

    fn one(self, disk: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        if self.write {
            bytes.chunks_mut(BLOCK).zip((at..).step_by(BLOCK)).for_each(|(block, at)| stamp(block, at));
            return disk.write_all_at(bytes, at);
        }
        disk.read_exact_at(bytes, at)?;
        if bytes.starts_with(&at.to_le_bytes()) {
            return Ok(());
        }
        Err(io::Error::other(format!("what was read at {at} belongs elsewhere")))
    }
}

/// Numbers without order, the same for the same `seed`.
pub(super) fn sequence(seed: u64, len: u64) -> impl Iterator<Item = u64> {
    let next = |n: &u64| n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let all = std::iter::successors(Some(next(&seed)), move |n| Some(next(n))).map(|n| n >> 33);
    (0..len).zip(all).map(|(_, n)| n)
}

fn stamp(block: &mut [u8], at: u64) {
    block.iter_mut().zip(at.to_le_bytes()).for_each(|(to, from)| *to = from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &File, requests: u64) -> io::Result<()> {
        let reads = Disk { write: false, random: false, bytes: BLOCK, requests, threads: 1 };
        (0..requests).try_for_each(|n| reads.one(file, n * BLOCK as u64, &mut [0; BLOCK]))
    }

    #[test]
    fn a_block_that_belongs_elsewhere_is_told() {
        let path = std::env::temp_dir().join(format!("kiwi-bench-disk-{}", std::process::id()));
        image(&path, 4 * BLOCK as u64).expect("an image");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it was there");
        read(&file, 4).expect("each block is at its place");
        file.write_all_at(&[0; 8], 2 * BLOCK as u64).expect("a write");
        assert!(read(&file, 4).is_err());
        assert!(read(&file, 5).is_err());
    }
}
