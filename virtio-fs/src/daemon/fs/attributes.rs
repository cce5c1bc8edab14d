//! Modes, owners, sizes and times.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::SetattrValid;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::credentials::Modest;
use super::nodes::{Handle, Node};
use super::{Shared, errno, in_proc, sys};

impl Shared {
    /// What is known of a file, and how long it is good.
    pub(super) fn attributes(&self, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        // A handle that is stale is no reason to fail: the node is as good.
        let st = match handle.and_then(|handle| self.handles.get(handle, inode).ok()) {
            Some(handle) => sys::stat(&handle.file)?.0,
            None => sys::stat(&*self.nodes.get(inode)?)?.0,
        };
        Ok((st, self.manner.cache.timeout()))
    }

    /// Sets what `valid` says, in the order in which one thing may undo another.
    pub(super) fn set_attributes(
        &self,
        inode: u64,
        attr: &stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<()> {
        let node = self.nodes.get(inode)?;
        let handle = handle.map(|handle| self.handles.get(handle, inode)).transpose()?;
        if valid.contains(SetattrValid::MODE) {
            self.set_mode(&node, attr.st_mode)?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let uid = valid.contains(SetattrValid::UID).then(|| Uid::from_raw(attr.st_uid));
            let gid = valid.contains(SetattrValid::GID).then(|| Gid::from_raw(attr.st_gid));
            fchownat(&*node, c"", uid, gid, AtFlags::AT_EMPTY_PATH | AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let _modest = Modest::new(valid.contains(SetattrValid::KILL_SUIDGID))?;
            self.set_size(&node, handle, attr.st_size)?;
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            self.set_times(&node, attr, valid)?;
        }
        Ok(())
    }

    fn set_mode(&self, node: &Node, mode: u32) -> io::Result<()> {
        if node.is_link() {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let mode = Mode::from_bits_truncate(mode);
        let name = in_proc(&std::os::fd::AsFd::as_fd(node));
        Ok(fchmodat(&self.descriptors, name.as_c_str(), mode, FchmodatFlags::FollowSymlink)?)
    }

    fn set_size(&self, node: &Node, handle: Option<Arc<Handle>>, size: i64) -> io::Result<()> {
        let size = u64::try_from(size).map_err(|_| errno(libc::EFBIG))?;
        match handle {
            Some(handle) => handle.file.set_len(size),
            None => self.open_node(node, libc::O_WRONLY)?.set_len(size),
        }
    }

    fn set_times(&self, node: &Node, attr: &stat64, valid: SetattrValid) -> io::Result<()> {
        let time = |set, now, (seconds, nanoseconds)| match (valid.contains(set), valid.contains(now)) {
            (_, true) => TimeSpec::UTIME_NOW,
            (true, false) => TimeSpec::new(seconds, nanoseconds),
            (false, false) => TimeSpec::UTIME_OMIT,
        };
        let read = time(SetattrValid::ATIME, SetattrValid::ATIME_NOW, (attr.st_atime, attr.st_atime_nsec));
        let written = time(SetattrValid::MTIME, SetattrValid::MTIME_NOW, (attr.st_mtime, attr.st_mtime_nsec));
        let name = in_proc(&std::os::fd::AsFd::as_fd(node));
        utimensat(&self.descriptors, name.as_c_str(), &read, &written, UtimensatFlags::FollowSymlink)?;
        Ok(())
    }
}

impl AsRawFd for Node {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsFd::as_fd(self).as_raw_fd()
    }
}
