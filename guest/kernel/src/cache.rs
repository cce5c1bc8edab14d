//! The cache of unpacked kernels.
//!
//! ```text
//! DIR/                          0700, owned by us
//!   by-build-id/ID/vmlinux      the ELF, sparse, sealed
//!   index/KEY -> ../by-build-id/ID/vmlinux
//!   tmp/                        files being written
//! ```
//! KEY is made of the image's device, inode, size, mtime and ctime, so a hit hashes and reads nothing: open and
//! stat the image, open and stat the copy. A copy is *sealed* by setting its mtime to its size in seconds: one
//! stat then shows a file that was truncated or written to since, and such a file is made again.
//!
//! Life cycle of a copy:
//! 1. unpacked in memory, checked to be a whole ELF;
//! 2. written to `tmp/`, sealed, synced, renamed to its place; then linked from `index/` in the same way;
//! 3. used by every later boot of that image, or of another file with the same build id;
//! 4. removed when [`tidy::KEPT`] newer kernels have come.

mod tidy;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::elf::Elf;
use crate::unpack::{Kind, UnpackError, detect, unpack};
use crate::{sys, write_sparse};

const BY_BUILD_ID: &str = "by-build-id";
const INDEX: &str = "index";
const TMP: &str = "tmp";
/// Enough of a file to tell what it is.
const HEAD: usize = 4096;
/// Build ids are 20 bytes (SHA-1); a longer one than this is not used as a name.
const BUILD_ID_LIMIT: usize = 64;
/// No kernel image is larger.
const IMAGE_LIMIT: u64 = 1 << 30;

/// Why a kernel file gave no vmlinux.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or not readable by us.
    #[error("the kernel {path} can't be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a FIFO, a device.
    #[error("the kernel {path} is {what}, not a file")]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Opened but not readable.
    #[error("the kernel {path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its content is at fault.
    #[error("the kernel {path} can't be used")]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// Someone replaced it meanwhile.
    #[error("the kernel {0} changed while it was being read: try again")]
    Changed(PathBuf),
    /// No memory for the unpacked copy.
    #[error("there is no room in memory for the unpacked kernel")]
    Memory(#[source] io::Error),
}

impl Error {
    /// Whether the file is a bzImage that the kernel's own decompressor can still unpack.
    pub fn is_fallback(&self) -> bool {
        matches!(self, Self::Unpack { source, .. } if source.is_fallback())
    }
}

/// Why a copy can't be kept; never a reason not to boot.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No variable says where.
    #[error("there is no place for the kernel cache: set KIWI_CACHE or HOME")]
    NoPlace,
    /// It can't be made.
    #[error("the kernel cache {dir} can't be made")]
    Create {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to another user, who could put any kernel there.
    #[error("the kernel cache {dir} belongs to user {owner}, not to us: remove it or set KIWI_CACHE")]
    Owner {
        /// The directory.
        dir: PathBuf,
        /// Its owner's id.
        owner: u32,
    },
    /// Others may write to it.
    #[error("the kernel cache {0} can be written by others: chmod 700 it or set KIWI_CACHE")]
    Mode(PathBuf),
    /// A copy could not be stored.
    #[error("the unpacked kernel can't be stored in {dir}")]
    Store {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Where an open vmlinux comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The given file is an ELF itself.
    Given,
    /// A copy from the cache.
    Cached,
    /// Unpacked now and stored in the cache.
    Stored,
    /// Unpacked now into a memfd.
    Memory,
}

/// An unpacked kernel, open for reading at its start.
#[derive(Debug)]
pub struct Vmlinux {
    /// The ELF file.
    pub file: File,
    /// Its path, unless it lives in memory only.
    pub path: Option<PathBuf>,
    /// Where it comes from.
    pub origin: Origin,
    /// Why it was not kept, when it was not: worth a line in the log.
    pub unkept: Option<CacheError>,
}

/// The cache directory of this user: `$KIWI_CACHE`, else `$XDG_CACHE_HOME/kiwi`, else `~/.cache/kiwi`, else, for
/// root without a home, `/var/cache/kiwi`.
pub fn default_dir() -> Option<PathBuf> {
    dir_from(|name| std::env::var_os(name), sys::effective_uid() == 0)
}

fn dir_from(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("KIWI_CACHE")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|base| base.join("kiwi")))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/kiwi")))
        .or_else(|| root.then(|| PathBuf::from("/var/cache/kiwi")))
}

/// A place where unpacked kernels are kept, or none.
#[derive(Debug)]
pub struct Cache {
    dir: Option<PathBuf>,
}

impl Cache {
    /// Opens the cache at `dir`, making it (mode 0700) if need be.
    ///
    /// # Errors
    /// The directory can't be made, or someone else could put kernels there. The caller may go on with
    /// [`Cache::none`].
    pub fn open(dir: &Path) -> Result<Self, CacheError> {
        let meta = match fs::metadata(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_dir(dir),
            other => other,
        };
        let meta = meta.map_err(|source| CacheError::Create { dir: dir.to_owned(), source })?;
        if meta.uid() != sys::effective_uid() {
            return Err(CacheError::Owner { dir: dir.to_owned(), owner: meta.uid() });
        }
        if meta.mode() & 0o022 != 0 {
            return Err(CacheError::Mode(dir.to_owned()));
        }
        Ok(Self { dir: Some(dir.to_owned()) })
    }

    /// Opens the cache at [`default_dir`].
    ///
    /// # Errors
    /// See [`Cache::open`]; also when no variable names a place.
    pub fn open_default() -> Result<Self, CacheError> {
        Self::open(&default_dir().ok_or(CacheError::NoPlace)?)
    }

    /// No cache: every bzImage is unpacked into memory.
    pub fn none() -> Self {
        Self { dir: None }
    }

    /// Opens the vmlinux of the kernel file at `path`, unpacking it if that was not done before.
    ///
    /// # Errors
    /// The file can't be read or is no kernel that we can unpack ([`Error::is_fallback`] tells those that can
    /// still be booted as they are). A cache that can't be written is no error: see [`Vmlinux::unkept`].
    pub fn vmlinux(&self, path: &Path) -> Result<Vmlinux, Error> {
        let (file, meta) = open_image(path)?;
        let key = key_of(&meta);
        if let Some((file, path)) = self.hit(&key) {
            return Ok(Vmlinux { file, path: Some(path), origin: Origin::Cached, unkept: None });
        }
        let read_error = |source| Error::Read { path: path.to_owned(), source };
        if kind_of(&file).map_err(read_error)? == Kind::Elf {
            return Ok(Vmlinux { file, path: Some(path.to_owned()), origin: Origin::Given, unkept: None });
        }
        let mut image = Vec::new();
        (&file).take(IMAGE_LIMIT).read_to_end(&mut image).map_err(read_error)?;
        if file.metadata().map(|now| key_of(&now)).map_err(read_error)? != key {
            return Err(Error::Changed(path.to_owned()));
        }
        let elf = unpack(&image).map_err(|source| Error::Unpack { path: path.to_owned(), source })?;
        drop(image);
        self.keep(&key, &elf)
    }

    fn hit(&self, key: &str) -> Option<(File, PathBuf)> {
        let path = self.dir.as_ref()?.join(INDEX).join(key);
        let file = File::open(&path).ok()?;
        is_sealed(&file.metadata().ok()?).then_some((file, path))
    }

    fn keep(&self, key: &str, elf: &[u8]) -> Result<Vmlinux, Error> {
        let stored = self
            .dir
            .as_ref()
            .map(|dir| store(dir, key, elf).map_err(|source| CacheError::Store { dir: dir.clone(), source }));
        let unkept = match stored {
            Some(Ok((file, path))) => {
                return Ok(Vmlinux { file, path: Some(path), origin: Origin::Stored, unkept: None });
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let file = sys::memory_file().map_err(Error::Memory)?;
        write_sparse(&file, elf).map_err(Error::Memory)?;
        Ok(Vmlinux { file, path: None, origin: Origin::Memory, unkept })
    }
}

fn make_dir(dir: &Path) -> io::Result<Metadata> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::metadata(dir)
}

/// Opens a kernel file without waiting at a FIFO.
fn open_image(path: &Path) -> Result<(File, Metadata), Error> {
    let open_error = |source| Error::Open { path: path.to_owned(), source };
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(open_error)?;
    let meta = file.metadata().map_err(open_error)?;
    match what_is(&meta) {
        None => Ok((file, meta)),
        Some(what) => Err(Error::NotAFile { path: path.to_owned(), what }),
    }
}

/// What a path that is no regular file is.
fn what_is(meta: &Metadata) -> Option<&'static str> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a FIFO"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

fn kind_of(file: &File) -> io::Result<Kind> {
    let mut head = [0u8; HEAD];
    let length = file.read_at(&mut head, 0)?;
    Ok(detect(head.get(..length).unwrap_or_default()))
}

fn key_of(meta: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{}.{:09}-{}.{:09}",
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec()
    )
}

/// Whether a copy is ours and as we left it.
fn is_sealed(meta: &Metadata) -> bool {
    let size = i64::try_from(meta.size()).unwrap_or(i64::MAX);
    let ours = meta.is_file() && meta.uid() == sys::effective_uid() && meta.mode() & 0o022 == 0;
    ours && size > 0 && meta.mtime() == size && meta.mtime_nsec() == 0
}

/// Puts `elf` in its place and links it from the index.
fn store(dir: &Path, key: &str, elf: &[u8]) -> io::Result<(File, PathBuf)> {
    let name = name_of(key, elf);
    let place = dir.join(BY_BUILD_ID).join(&name);
    for made in [&dir.join(TMP), &dir.join(INDEX), &place] {
        DirBuilder::new().recursive(true).mode(0o700).create(made)?;
    }
    tidy::sweep(&dir.join(TMP));
    let path = place.join("vmlinux");
    if !fs::metadata(&path).is_ok_and(|meta| is_sealed(&meta)) {
        let tmp = tmp_name(dir);
        write_sealed(&tmp, elf).and_then(|()| fs::rename(&tmp, &path)).inspect_err(|_| remove(&tmp))?;
    }
    let tmp = tmp_name(dir);
    symlink(Path::new("..").join(BY_BUILD_ID).join(&name).join("vmlinux"), &tmp)?;
    fs::rename(&tmp, dir.join(INDEX).join(key)).inspect_err(|_| remove(&tmp))?;
    tidy::prune(&dir.join(BY_BUILD_ID), &dir.join(INDEX), &name);
    Ok((File::open(&path)?, path))
}

fn remove(path: &Path) {
    // Best effort: what stays is swept by a later run.
    let _ = fs::remove_file(path);
}

/// A name in `tmp` that no other process uses at this moment.
fn tmp_name(dir: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    dir.join(TMP).join(format!("{}-{}", std::process::id(), now.as_nanos()))
}

/// The build id in hex; a kernel without one goes by its image's key.
fn name_of(key: &str, elf: &[u8]) -> String {
    let parsed = Elf::parse(elf).ok();
    match parsed.and_then(|elf| elf.build_id()).filter(|id| id.len() <= BUILD_ID_LIMIT) {
        Some(id) => id.iter().map(|byte| format!("{byte:02x}")).collect(),
        None => format!("none-{key}"),
    }
}

fn write_sealed(path: &Path, elf: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    write_sparse(&file, elf)?;
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(elf.len() as u64))?;
    // Without this a power cut could leave a file of the right size, sealed, with blocks of zeros.
    file.sync_all()
}

#[cfg(test)]
mod tests;
