//! Work in a shared directory, which the guest has mounted.
//!
//! Preparing work and doing it are two orders: what is timed is the second alone. Preparing ends with the guest's caches
//! dropped, so that names and attributes are asked for, however long they were good.

use std::fs::{self, File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk::{self, BLOCK, Buffer, LARGEST};

/// Where it is mounted.
pub const MOUNTED: &str = "/mnt";
/// Bytes of the file that is read and written.
const LARGE: u64 = 16 << 20;
/// Headers of the tree that is built, by folder, and their bytes; what a unit reads of them, and what it makes.
const FOLDERS: u64 = 4;
const HEADERS: u64 = 16;
const HEADER: usize = 3000;
const INCLUDED: u64 = 8;
const OBJECT: usize = 12_000;

/// Work of some pieces.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Files {
    /// Which.
    pub kind: Kind,
    /// How many pieces.
    pub pieces: u64,
    /// Makes what the work needs, instead of doing it.
    pub prepare: bool,
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// 128 KiB after 128 KiB of a file, through the guest's page cache.
    Read,
    /// The same, written.
    Write,
    /// 4 KiB here and there, past the page cache.
    ReadRandom,
    /// The same, written.
    WriteRandom,
    /// Files are made.
    Create,
    /// Each file's attributes.
    Stat,
    /// All names of a folder.
    List,
    /// Files are removed.
    Unlink,
    /// As a compiler does: for each unit files are looked for where they are not, looked at and read, and one is written
    /// and renamed.
    Build,
}

impl Files {
    /// Does it, or what comes before.
    pub(super) fn work(self) -> io::Result<()> {
        let place = Path::new(MOUNTED);
        if self.prepare {
            self.prepare(place)?;
            return fs::write("/proc/sys/vm/drop_caches", "3");
        }
        self.within(place)
    }

    fn prepare(self, place: &Path) -> io::Result<()> {
        match self.kind {
            Kind::Read | Kind::Write | Kind::ReadRandom | Kind::WriteRandom => large(place),
            Kind::Create => folder(place, self.pieces, false),
            Kind::Stat | Kind::List | Kind::Unlink => folder(place, self.pieces, true),
            Kind::Build => tree(place, self.pieces),
        }
    }

    fn within(self, place: &Path) -> io::Result<()> {
        match self.kind {
            Kind::Read | Kind::Write => self.sequential(place),
            Kind::ReadRandom | Kind::WriteRandom => self.random(place),
            Kind::Create => self.each(place, |path| File::create_new(path).map(drop)),
            Kind::Stat => self.each(place, |path| fs::metadata(path).map(|meta| _ = black_box(meta.len()))),
            Kind::List => self.list(place),
            Kind::Unlink => self.each(place, fs::remove_file),
            Kind::Build => (0..self.pieces).try_for_each(|n| unit(place, n)),
        }
    }

    fn each(self, place: &Path, one: impl Fn(PathBuf) -> io::Result<()>) -> io::Result<()> {
        (0..self.pieces).try_for_each(|n| one(file(place, n)))
    }

    fn list(self, place: &Path) -> io::Result<()> {
        let mut count = 0;
        for entry in fs::read_dir(place.join("folder"))? {
            black_box(entry?.metadata()?.len());
            count += 1;
        }
        if count == self.pieces { Ok(()) } else { Err(io::Error::other(format!("{count} files are listed"))) }
    }

    fn sequential(self, place: &Path) -> io::Result<()> {
        let write = self.kind == Kind::Write;
        let mut file = OpenOptions::new().read(!write).write(write).open(place.join("large"))?;
        let mut bytes = vec![0x5a; LARGEST];
        for _ in 0..self.pieces {
            if write { file.write_all(&bytes)? } else { file.read_exact(&mut bytes)? }
        }
        Ok(())
    }

    fn random(self, place: &Path) -> io::Result<()> {
        let write = self.kind == Kind::WriteRandom;
        let mut options = OpenOptions::new();
        options.read(!write).write(write).custom_flags(libc::O_DIRECT);
        let file = options.open(place.join("large"))?;
        let mut buffer = Box::new(Buffer([0x5a; LARGEST]));
        let bytes = buffer.0.get_mut(..BLOCK).ok_or(io::ErrorKind::InvalidInput)?;
        for n in disk::sequence(1, self.pieces) {
            let at = n % (LARGE / BLOCK as u64) * BLOCK as u64;
            if write { file.write_all_at(bytes, at)? } else { file.read_exact_at(bytes, at)? }
        }
        Ok(())
    }
}

fn large(place: &Path) -> io::Result<()> {
    let path = place.join("large");
    match fs::metadata(&path) {
        Ok(meta) if meta.size() == LARGE => Ok(()),
        _ => disk::image(&path, LARGE),
    }
}

fn file(place: &Path, n: u64) -> PathBuf {
    place.join("folder").join(format!("file{n}"))
}

/// A folder whose files are there, or are not. They are removed by their names: virtiofsd on a tmpfs before Linux 6.6
/// lists not all of a folder that is emptied meanwhile.
fn folder(place: &Path, files: u64, there: bool) -> io::Result<()> {
    ensure(&place.join("folder"))?;
    (0..files).map(|n| file(place, n)).try_for_each(|path| if there { make(&path) } else { remove(&path) })
}

fn ensure(folder: &Path) -> io::Result<()> {
    if folder.exists() { Ok(()) } else { fs::create_dir(folder) }
}

fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Headers in folders, sources, and a folder for what is made of them, of which nothing is there.
fn tree(place: &Path, units: u64) -> io::Result<()> {
    let root = place.join("tree");
    if !root.exists() {
        fs::create_dir(&root)?;
        for folder in 0..FOLDERS {
            fs::create_dir(root.join(format!("include{folder}")))?;
        }
        (0..FOLDERS * HEADERS)
            .try_for_each(|n| fs::write(header(&root, n % FOLDERS, n), vec![0x5a; HEADER]))?;
        (0..units).try_for_each(|n| fs::write(root.join(format!("unit{n}.c")), vec![0x5a; HEADER]))?;
    }
    ensure(&root.join("objects"))?;
    (0..units).try_for_each(|n| remove(&object(place, n)))
}

fn object(place: &Path, n: u64) -> PathBuf {
    place.join("tree/objects").join(format!("unit{n}.o"))
}

fn header(root: &Path, folder: u64, n: u64) -> PathBuf {
    root.join(format!("include{folder}")).join(format!("header{n}.h"))
}

fn unit(place: &Path, n: u64) -> io::Result<()> {
    let (root, object) = (place.join("tree"), object(place, n));
    // Whether it must be made at all.
    if fs::metadata(&object).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    read(&root.join(format!("unit{n}.c")))?;
    for i in 0..INCLUDED {
        include(&root, (n * INCLUDED + i) % (FOLDERS * HEADERS))?;
    }
    let unnamed = object.with_extension("tmp");
    let mut made = File::create_new(&unnamed)?;
    for part in [0x5a; OBJECT].chunks(BLOCK) {
        made.write_all(part)?;
    }
    drop(made);
    fs::rename(&unnamed, &object)?;
    fs::metadata(&object).map(|meta| _ = black_box(meta.len()))
}

/// Looks for a header in one folder after the other.
fn include(root: &Path, n: u64) -> io::Result<()> {
    let found = (0..FOLDERS).map(|folder| header(root, folder, n)).find(|path| path.exists());
    read(&found.ok_or(io::ErrorKind::NotFound)?)
}

fn read(path: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    if bytes.len() == HEADER { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 9] = [
        Kind::Read,
        Kind::Write,
        Kind::ReadRandom,
        Kind::WriteRandom,
        Kind::Create,
        Kind::Stat,
        Kind::List,
        Kind::Unlink,
        Kind::Build,
    ];

    #[test]
    fn every_kind_of_work_can_be_done_again_and_again() {
        let place = ::tests::scratch();
        for kind in ALL.into_iter().chain(ALL) {
            let files = Files { kind, pieces: 20, prepare: false };
            files.prepare(place.path()).expect("it is made");
            files.within(place.path()).unwrap_or_else(|why| panic!("{kind:?}: {why}"));
        }
    }
}
