//! Calls that neither std nor nix has.
#![allow(unsafe_code)] // extended attributes, a lock's structure, a mapping

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
pub(crate) fn set_attribute(file: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    // SAFETY: C strings and a slice that outlive the call.
    let done = unsafe { libc::setxattr(file.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    len(done as isize).map(drop)
}

/// Reads an extended attribute.
pub(crate) fn attribute(file: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (file, name) = (path(file), CString::new(name)?);
    let mut value = vec![0; 4096];
    // SAFETY: C strings; the kernel writes at most the slice.
    let n = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(len(n)?);
    Ok(value)
}

/// Names of extended attributes, sorted.
pub(crate) fn attributes(file: &Path) -> io::Result<Vec<String>> {
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
pub(crate) fn remove_attribute(file: &Path, name: &str) -> io::Result<()> {
    let (file, name) = (path(file), CString::new(name)?);
    // SAFETY: C strings that outlive the call.
    len(unsafe { libc::removexattr(file.as_ptr(), name.as_ptr()) } as isize).map(drop)
}

/// Locks a range by POSIX's rules, without waiting.
pub(crate) fn lock(file: &File, start: i64, bytes: i64) -> io::Result<()> {
    // SAFETY: a structure of plain numbers.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)] // small constants, which the structure has 16 bits for
    {
        (range.l_type, range.l_whence) = (libc::F_WRLCK as i16, libc::SEEK_SET as i16);
    }
    (range.l_start, range.l_len) = (start, bytes);
    // SAFETY: the structure outlives the call, which reads it.
    len(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &range) } as isize).map(drop)
}

/// What a private mapping of the file's first bytes shows; `None` where it cannot be mapped.
pub(crate) fn mapped(file: &File, bytes: usize) -> Option<Vec<u8>> {
    // SAFETY: a fresh mapping at an address the kernel chooses.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
    };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is that long, and nobody shortens the file meanwhile.
    let copy = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), bytes) }.to_vec();
    // SAFETY: ours, and no longer looked at.
    unsafe { libc::munmap(at, bytes) };
    Some(copy)
}
