//! Extended attributes.
//!
//! Their system calls take paths, and a descriptor that only names its file has none but the one in `/proc/self/fd`.
//! From the root that the process has after the sandbox is made there is no `/proc`, and if there were, it would be the
//! guest's to make. So each thread has `/proc/self/fd` as its folder ([`Shared::enter`]), and the path is a number.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use fuse_backend_rs::api::filesystem::{GetxattrReply, ListxattrReply};

use super::{Shared, errno, in_proc, sys};

/// Longest value and longest list there are (linux/limits.h).
const MOST: usize = 65536;

impl Shared {
    fn attribute_place(
        &self,
        inode: u64,
        name: Option<&CStr>,
    ) -> io::Result<(std::sync::Arc<super::Node>, std::ffi::CString)> {
        if !self.manner.xattr {
            return Err(errno(libc::ENOSYS));
        }
        let is_acl = name.is_some_and(|name| name.to_bytes().starts_with(b"system.posix_acl_"));
        if is_acl && !self.agreed.acl.load(Ordering::Relaxed) {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let node = self.nodes.get(inode)?;
        let path = in_proc(&node.as_raw_fd());
        Ok((node, path))
    }

    pub(super) fn set_extended(&self, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        let (_node, path) = self.attribute_place(inode, Some(name))?;
        sys::set_attribute(&path, name, value, flags.cast_signed())
    }

    pub(super) fn get_extended(&self, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let (_node, path) = self.attribute_place(inode, Some(name))?;
        let mut value = vec![0; MOST.min(size as usize)];
        let len = sys::get_attribute(&path, name, &mut value)?;
        value.truncate(len);
        Ok(if size == 0 { GetxattrReply::Count(count(len)) } else { GetxattrReply::Value(value) })
    }

    pub(super) fn list_extended(&self, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let (_node, path) = self.attribute_place(inode, None)?;
        let mut names = vec![0; MOST.min(size as usize)];
        let len = sys::list_attributes(&path, &mut names)?;
        names.truncate(len);
        Ok(if size == 0 { ListxattrReply::Count(count(len)) } else { ListxattrReply::Names(names) })
    }

    pub(super) fn remove_extended(&self, inode: u64, name: &CStr) -> io::Result<()> {
        let (_node, path) = self.attribute_place(inode, Some(name))?;
        sys::remove_attribute(&path, name)
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
