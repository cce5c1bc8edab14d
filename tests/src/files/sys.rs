//! Calls that neither std nor nix has.
#![allow(unsafe_code)] // extended attributes, mappings

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path")
}

fn len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Sets an extended attribute.
pub fn set_attribute(file: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    // SAFETY: C strings and a slice that outlive the call.
    let done = unsafe { libc::setxattr(file.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    len(done as isize).map(drop)
}

/// Reads an extended attribute.
pub fn attribute(file: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (file, name) = (path(file), CString::new(name)?);
    let mut value = vec![0; 4096];
    // SAFETY: C strings; the kernel writes at most the slice.
    let n = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(len(n)?);
    Ok(value)
}

/// Names of extended attributes, sorted.
pub fn attributes(file: &Path) -> io::Result<Vec<String>> {
    let mut list = vec![0_u8; 4096];
    // SAFETY: a C string; the kernel writes at most the slice.
    let n = unsafe { libc::listxattr(path(file).as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    list.truncate(len(n)?);
    let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    names.sort();
    Ok(names)
}

/// Removes an extended attribute.
pub fn remove_attribute(file: &Path, name: &str) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    // SAFETY: C strings that outlive the call.
    len(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) } as isize).map(drop)
}

/// What a mapping of the file's first bytes shows; `None` where it cannot be mapped.
pub fn mapped(file: &File, bytes: usize) -> Option<Vec<u8>> {
    let map = Map::new(file, bytes, libc::PROT_READ, libc::MAP_PRIVATE)?;
    // SAFETY: the mapping is that long, and nobody shortens the file meanwhile.
    Some(unsafe { std::slice::from_raw_parts(map.at.cast::<u8>(), bytes) }.to_vec())
}

/// Writes `bytes` at `at`, within the file's length, through a shared mapping; whether there can be one. They are in the
/// file when `now` is set, and some day otherwise.
pub fn write_mapped(file: &File, at: usize, bytes: &[u8], now: bool) -> bool {
    let len = at + bytes.len();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let Some(map) = Map::new(file, len, access, libc::MAP_SHARED) else { return false };
    // SAFETY: the mapping is that long, nobody else looks at it, and nobody shortens the file meanwhile.
    let to = unsafe { std::slice::from_raw_parts_mut(map.at.cast::<u8>(), len) };
    to[at..].copy_from_slice(bytes);
    if now {
        // SAFETY: the mapping is that long.
        let done = unsafe { libc::msync(map.at, len, libc::MS_SYNC) };
        assert_eq!(done, 0, "msync: {}", io::Error::last_os_error());
    }
    true
}

/// A mapping of a file's first bytes.
struct Map {
    at: *mut libc::c_void,
    len: usize,
}

impl Map {
    fn new(file: &File, len: usize, access: i32, kind: i32) -> Option<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, kind, file.as_raw_fd(), 0) };
        (at != libc::MAP_FAILED).then_some(Self { at, len })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: ours, and no longer looked at.
        unsafe { libc::munmap(self.at, self.len) };
    }
}
