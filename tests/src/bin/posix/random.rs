//! Random reads, writes, mappings and lengths of one file against a model of it.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use tests::files::{mapped, write_mapped};

use super::{Has, open};

/// Most bytes of the file, and of one step.
const MOST: usize = 300_000;
const STEP: usize = 40_000;

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    steps: u64,
    mappings_read: u64,
    mappings_written: u64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { steps, mappings_read, mappings_written } = self;
        write!(f, "{steps} steps, {mappings_read} mappings read, {mappings_written} written: as the model")
    }
}

struct Random<'a> {
    path: &'a Path,
    file: File,
    model: Vec<u8>,
    /// Where bytes to write come from.
    noise: Vec<u8>,
    state: u64,
    done: Done,
}

pub(crate) fn check(dir: &Path, _: &Has) {
    println!("{}", run(&dir.join("file"), 0x9e37_79b9_7f4a_7c15, |steps| steps == 300));
}

/// Until `end` of the number of steps.
pub(crate) fn run(path: &Path, seed: u64, end: impl Fn(u64) -> bool) -> Done {
    // A xorshift's state is never 0.
    let state = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
    let (file, model, done) = (open(path), Vec::new(), Done::default());
    let mut random = Random { path, file, model, noise: Vec::new(), state, done };
    random.noise = (0..2 * STEP).map(|_| random.number(256) as u8).collect();
    while !end(random.done.steps) {
        random.step();
        random.done.steps += 1;
    }
    random.file = open(path);
    random.compare(0, MOST);
    random.done
}

impl Random<'_> {
    fn number(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % below.max(1) as u64) as usize
    }

    /// Of the step, so that what is stale is told from what is new; a copy, for the guest is slow.
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let from = self.number(self.noise.len() - len);
        self.noise[from..from + len].to_vec()
    }

    fn step(&mut self) {
        let (at, len) = (self.number(MOST), self.number(STEP));
        match self.number(16) {
            0..=3 => self.write(at, len),
            4..=6 => self.compare(at, len),
            7 => self.cut(at),
            8 => self.punch(at, len + 1),
            9 => self.append(len),
            10 => self.copy(at, len),
            11 | 12 => self.read_mapped(),
            13 | 14 => self.write_mapped(at, len),
            _ if len.is_multiple_of(2) => self.file.sync_all().expect("synchronised"),
            // What follows shall not be another's page cache alone.
            _ => self.file = open(self.path),
        }
        assert_eq!(self.file.metadata().expect("known").len(), self.model.len() as u64, "the length");
    }

    /// What the model becomes by a write.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.model.resize(self.model.len().max(at + bytes.len()), 0);
        self.model[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn write(&mut self, at: usize, len: usize) {
        let bytes = self.bytes(len);
        self.file.write_all_at(&bytes, at as u64).expect("written");
        self.put(at, &bytes);
    }

    fn append(&mut self, len: usize) {
        let len = len.min(MOST.saturating_sub(self.model.len()));
        let (at, bytes) = (self.model.len(), self.bytes(len));
        let mut options = File::options();
        let other = options.append(true).custom_flags(libc::O_CLOEXEC).open(self.path).expect("open");
        std::io::Write::write_all(&mut &other, &bytes).expect("written");
        self.put(at, &bytes);
    }

    fn compare(&mut self, at: usize, len: usize) {
        let mut bytes = vec![0; len];
        let mut got = 0;
        // A read may be cut short only by the end.
        while let n @ 1.. = self.file.read_at(&mut bytes[got..], (at + got) as u64).expect("read") {
            got += n;
        }
        let expected = self.model.get(at..).unwrap_or_default();
        let expected = &expected[..expected.len().min(len)];
        self.same(&bytes[..got], expected, at, "read");
    }

    fn same(&self, got: &[u8], expected: &[u8], at: usize, how: &str) {
        let step = self.done.steps;
        assert_eq!(got.len(), expected.len(), "step {step}, {how} at {at}: the length");
        if got != expected {
            let wrong = got.iter().zip(expected).position(|(a, b)| a != b);
            panic!("step {step}, {how} at {at}: the first wrong byte is {wrong:?}");
        }
    }

    fn cut(&mut self, len: usize) {
        self.file.set_len(len as u64).expect("a length");
        self.model.resize(len, 0);
    }

    fn punch(&mut self, at: usize, len: usize) {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, flags, at as i64, len as i64).expect("punched");
        let end = self.model.len().min(at + len);
        self.model.get_mut(at..end).unwrap_or_default().fill(0);
    }

    /// From the file to itself, between ranges that have nothing in common.
    fn copy(&mut self, at: usize, len: usize) {
        let from = self.number(MOST);
        let len = len.min(self.model.len().saturating_sub(from)).min(from.abs_diff(at));
        let (mut source, mut target) = (from as i64, at as i64);
        let mut left = len;
        while left > 0 {
            let source = Some(&mut source);
            left -= copy_file_range(&self.file, source, &self.file, Some(&mut target), left).expect("copied");
        }
        let bytes = self.model.get(from..from + len).unwrap_or_default().to_vec();
        self.put(at, &bytes);
    }

    fn read_mapped(&mut self) {
        if let Some(got) = mapped(&self.file, self.model.len()) {
            self.same(&got, &self.model, 0, "mapped");
            self.done.mappings_read += 1;
        }
    }

    /// A file that may not be cached cannot be mapped to be written.
    fn write_mapped(&mut self, at: usize, len: usize) {
        let bytes = self.bytes(len.min(self.model.len().saturating_sub(at)));
        if !bytes.is_empty() && write_mapped(&self.file, at, &bytes, len.is_multiple_of(2)) {
            self.put(at, &bytes);
            self.done.mappings_written += 1;
        }
    }
}
