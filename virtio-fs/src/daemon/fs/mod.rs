//! The shared directory as a FUSE file system: each request is the system call of the same name.
//!
//! Whatever the guest sends stays in the directory:
//! - A name is one name: none with a slash in it, not `.`, not `..`. So every system call has a descriptor of a folder
//!   and a name in it, and the kernel walks no path.
//! - Links are never followed: their content is the guest's to interpret.
//! - Only regular files and folders are opened. Of a device node, a pipe or a socket the guest sees that it is there.
//! - Only regular files are handed to the VMM to be mapped.
//! - Nodes and handles are looked up by numbers (`nodes`) that were given out once.
//! - Sizes that the guest asks for are bounded before memory is.
//!
//! Beyond that the sandbox around the process holds: see [`super::sandbox`].

mod attributes;
mod credentials;
mod directory;
mod extended;
mod lately;
mod mapped;
mod nodes;
mod sys;
mod trouble;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, FOPEN_IN_KILL_SUIDGID, WRITE_KILL_PRIV, stat64, statvfs64};
use fuse_backend_rs::abi::virtio_fs::RemovemappingOne;
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::transport::FsCacheReqHandler;
use nix::unistd::{LinkatFlags, UnlinkatFlags};

use super::dax::Window;
use super::options::{Cache, Options};
use credentials::{Creator, Modest};
use lately::{Lately, Mark};
use mapped::Mapped;
use nodes::{Handles, Key, Node, Nodes, ROOT};
use trouble::Trouble;

/// A folder on another mount than its parent (FUSE_ATTR_SUBMOUNT); the library has no name for it.
const IS_SUBMOUNT: u32 = 1;
/// Flags of open(2) that a guest may choose beside how it accesses a file.
const OPEN_FLAGS: i32 = libc::O_APPEND | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;

/// How the file system behaves; never changes.
#[derive(Clone, Debug)]
struct Manner {
    cache: Cache,
    writeback: bool,
    xattr: bool,
    acl: bool,
    readonly: bool,
    direct_io: bool,
}

/// What the guest's kernel can do, too; settled when it mounts.
#[derive(Debug, Default)]
struct Agreed {
    writeback: AtomicBool,
    acl: AtomicBool,
    submounts: AtomicBool,
}

/// The file system.
#[derive(Debug)]
pub struct Shared {
    manner: Manner,
    agreed: Agreed,
    nodes: Nodes,
    handles: Handles,
    /// Where files may be mapped, if anywhere.
    window: Option<Arc<Window>>,
    mapped: Mapped,
    lately: Lately,
    /// `/proc/self/fd`, by which a descriptor that only names its file is opened.
    descriptors: OwnedFd,
    trouble: Trouble,
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// One name in a folder, and nothing else.
fn one_name(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(errno(libc::EINVAL)),
        bytes if bytes.contains(&b'/') => Err(errno(libc::EINVAL)),
        bytes if bytes.len() > 255 => Err(errno(libc::ENAMETOOLONG)),
        _ => Ok(()),
    }
}

/// A descriptor's name in `/proc/self/fd`.
fn in_proc(file: &impl AsRawFd) -> CString {
    // Digits hold no NUL.
    CString::new(file.as_raw_fd().to_string()).unwrap_or_default()
}

fn key(st: &stat64, mount: u64) -> Key {
    Key { device: st.st_dev, inode: st.st_ino, mount }
}

impl Shared {
    /// Serves `root`, an open folder; `descriptors` is this process's `/proc/self/fd`.
    ///
    /// # Errors
    /// The folder is none.
    pub fn new(options: &Options, root: OwnedFd, descriptors: OwnedFd) -> io::Result<Self> {
        let (st, mount) = sys::stat(&root)?;
        if st.st_mode & libc::S_IFMT != libc::S_IFDIR {
            return Err(errno(libc::ENOTDIR));
        }
        let manner = Manner {
            cache: options.cache,
            writeback: options.writeback,
            xattr: options.xattr,
            acl: options.acl,
            readonly: options.readonly,
            direct_io: options.direct_io,
        };
        let nodes = Nodes::new(root, key(&st, mount));
        let (agreed, handles, mapped) = (Agreed::default(), Handles::default(), Mapped::default());
        let (lately, trouble) = (Lately::default(), Trouble::default());
        let window = options.dax_window.map(Window::new).map(Arc::new);
        Ok(Self { manner, agreed, nodes, handles, window, mapped, lately, descriptors, trouble })
    }

    /// The window for DAX.
    pub(super) fn window(&self) -> Option<&Arc<Window>> {
        self.window.as_ref()
    }

    /// Prepares the calling thread, once: its own folder, which `extended` needs, and its own mask.
    ///
    /// # Errors
    /// The host refused.
    pub fn enter(&self) -> io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::fchdir(&self.descriptors)?;
        Ok(())
    }

    fn may_change(&self) -> io::Result<()> {
        if self.manner.readonly { Err(errno(libc::EROFS)) } else { Ok(()) }
    }

    /// A folder's node, and a name in it that may be changed.
    fn place(&self, parent: u64, name: &CStr) -> io::Result<std::sync::Arc<Node>> {
        self.may_change()?;
        one_name(name)?;
        self.nodes.get(parent)
    }

    fn creator(&self, context: &Context, mask: u32) -> io::Result<Creator> {
        // Without ACLs the guest's kernel has applied the mask.
        let mask = self.agreed.acl.load(Ordering::Relaxed).then_some(mask);
        Creator::new(context.uid, context.gid, mask)
    }

    /// Opens a node's file; `flags` are the guest's.
    fn open_node(&self, node: &Node, flags: i32) -> io::Result<File> {
        if !node.is_openable() {
            return Err(errno(libc::ENXIO));
        }
        let flags = self.open_flags(flags)?;
        Ok(sys::open(&self.descriptors, &in_proc(&node.as_raw_fd()), flags, 0)?.into())
    }

    fn open_flags(&self, flags: i32) -> io::Result<i32> {
        let mut access = flags & libc::O_ACCMODE;
        let mut chosen = flags & OPEN_FLAGS;
        if access != libc::O_RDONLY || chosen & libc::O_TRUNC != 0 {
            self.may_change()?;
        }
        if self.agreed.writeback.load(Ordering::Relaxed) {
            // A page that is written in part is read before, and where a file ends is the guest's to know.
            access = if access == libc::O_WRONLY { libc::O_RDWR } else { access };
            chosen &= !libc::O_APPEND;
        }
        if self.manner.direct_io {
            chosen |= flags & libc::O_DIRECT;
        }
        Ok(access | chosen)
    }

    fn opened(&self, is_folder: bool) -> OpenOptions {
        match (self.manner.cache, is_folder) {
            (Cache::Never | Cache::Metadata, false) => OpenOptions::DIRECT_IO,
            (Cache::Always, false) => OpenOptions::KEEP_CACHE,
            (Cache::Always | Cache::Metadata, true) => OpenOptions::KEEP_CACHE | OpenOptions::CACHE_DIR,
            (Cache::Auto, _) | (Cache::Never, true) => OpenOptions::empty(),
        }
    }

    /// Has the log tell what is wrong with the host, if that is why a request failed.
    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(why) = &result {
            self.trouble.note(&*self.nodes.get(ROOT)?, why);
        }
        result
    }

    /// Looks `name` up in `parent`, however it is written.
    fn find(&self, parent: &Node, name: &CStr) -> io::Result<Entry> {
        let mark = Mark::new(&parent.key, name);
        if self.lately.guess(mark).is_some_and(|number| self.nodes.has(number)) {
            let (attr, mount) = sys::stat_in(parent, name)?;
            if let Some(number) = self.nodes.known(&key(&attr, mount)) {
                return Ok(self.entry(parent, number, attr, mount));
            }
        }
        let file = sys::open(parent, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let entry = self.found(parent, file)?;
        self.lately.note(mark, entry.inode);
        Ok(entry)
    }

    fn found(&self, parent: &Node, file: OwnedFd) -> io::Result<Entry> {
        let (attr, mount) = sys::stat(&file)?;
        let number = self.nodes.found(file, key(&attr, mount), attr.st_mode);
        Ok(self.entry(parent, number, attr, mount))
    }

    fn entry(&self, parent: &Node, inode: u64, attr: stat64, mount: u64) -> Entry {
        let is_submount = attr.st_mode & libc::S_IFMT == libc::S_IFDIR
            && mount != parent.key.mount
            && self.agreed.submounts.load(Ordering::Relaxed);
        let (timeout, attr_flags) = (self.manner.cache.timeout(), if is_submount { IS_SUBMOUNT } else { 0 });
        Entry { inode, generation: 0, attr, attr_flags, attr_timeout: timeout, entry_timeout: timeout }
    }

    fn unlink_in(&self, parent: u64, name: &CStr, flag: UnlinkatFlags) -> io::Result<()> {
        let folder = self.place(parent, name)?;
        Ok(nix::unistd::unlinkat(&*folder, name, flag)?)
    }

    fn forget_all(&self, all: impl IntoIterator<Item = (u64, u64)>) {
        let gone = self.nodes.forget(all);
        // After the nodes: see `file_to_map`.
        gone.iter().for_each(|(number, _)| self.mapped.forget(*number));
    }

    fn sync(&self, handle: u64, inode: u64, data_only: bool) -> io::Result<()> {
        let handle = self.handles.get(handle, inode)?;
        if data_only { handle.file.sync_data() } else { handle.file.sync_all() }
    }

    /// Makes a file that is not there, and opens it; `None` if it is there.
    fn create_in(
        &self,
        context: &Context,
        folder: &Node,
        name: &CStr,
        args: &CreateIn,
    ) -> io::Result<Option<File>> {
        let flags =
            self.open_flags(args.flags.cast_signed())? | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let _creator = self.creator(context, args.umask)?;
        match sys::open(folder, name, flags, args.mode & 0o7777) {
            Ok(file) => Ok(Some(file.into())),
            Err(e)
                if e.kind() == io::ErrorKind::AlreadyExists
                    && args.flags.cast_signed() & libc::O_EXCL == 0 =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }
}

impl FileSystem for Shared {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        // A guest that mounts anew knows nothing any more.
        self.destroy();
        let mut wanted = FsOptions::ASYNC_READ
            | FsOptions::BIG_WRITES
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::ASYNC_DIO
            | FsOptions::SUBMOUNTS
            | FsOptions::INIT_EXT;
        // A write to a mapped file is none of our requests: the guest's kernel must take set-user-id bits away itself, and
        // relies on us where we say that we do.
        wanted.set(FsOptions::HANDLE_KILLPRIV_V2, self.window.is_none());
        wanted.set(FsOptions::AUTO_INVAL_DATA, self.manner.cache == Cache::Auto);
        wanted.set(FsOptions::CACHE_SYMLINKS, self.manner.cache != Cache::Never);
        wanted.set(FsOptions::WRITEBACK_CACHE, self.manner.writeback);
        wanted.set(FsOptions::POSIX_ACL | FsOptions::DONT_MASK, self.manner.acl);
        let agreed = wanted & capable;
        self.agreed.writeback.store(agreed.contains(FsOptions::WRITEBACK_CACHE), Ordering::Relaxed);
        self.agreed.acl.store(agreed.contains(FsOptions::POSIX_ACL), Ordering::Relaxed);
        self.agreed.submounts.store(agreed.contains(FsOptions::SUBMOUNTS), Ordering::Relaxed);
        Ok(wanted)
    }

    fn destroy(&self) {
        self.handles.clear();
        self.nodes.clear();
        // After the nodes: see `file_to_map`.
        self.mapped.clear();
        // Linux's driver ends the session before it lets go of its pieces, and then cannot say so any more.
        if let Some(window) = &self.window {
            window.clear();
        }
    }

    fn statfs(&self, _: &Context, inode: u64) -> io::Result<statvfs64> {
        sys::statfs(&*self.nodes.get(inode)?)
    }

    fn lookup(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        one_name(name)?;
        let found = self.find(&*self.nodes.get(parent)?, name);
        // What is not there is looked up more than anything else: only where it costs little is it asked why.
        if parent == ROOT { self.noted(found) } else { found }
    }

    fn forget(&self, _: &Context, inode: u64, count: u64) {
        self.forget_all([(inode, count)]);
    }

    fn batch_forget(&self, _: &Context, requests: Vec<(u64, u64)>) {
        self.forget_all(requests);
    }

    fn getattr(&self, _: &Context, inode: u64, handle: Option<u64>) -> io::Result<(stat64, Duration)> {
        self.attributes(inode, handle)
    }

    fn setattr(
        &self,
        _: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        self.may_change()?;
        self.set_attributes(inode, &attr, handle, valid)?;
        self.attributes(inode, handle)
    }

    fn readlink(&self, _: &Context, inode: u64) -> io::Result<Vec<u8>> {
        let node = self.nodes.get(inode)?;
        Ok(std::os::unix::ffi::OsStringExt::into_vec(nix::fcntl::readlinkat(&*node, c"")?))
    }

    fn symlink(&self, context: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        let folder = self.place(parent, name)?;
        let creator = self.creator(context, 0)?;
        nix::unistd::symlinkat(target, &*folder, name)?;
        drop(creator);
        self.find(&folder, name)
    }

    fn mknod(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> io::Result<Entry> {
        let folder = self.place(parent, name)?;
        // A device's node is a way to a driver of the host's; the one of device 0 is to none, and marks a whiteout.
        let is_device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        if is_device && (rdev, mode & libc::S_IFMT) != (0, libc::S_IFCHR) {
            return Err(errno(libc::EPERM));
        }
        let creator = self.creator(context, umask)?;
        sys::make_node(&*folder, name, mode, rdev.into())?;
        drop(creator);
        self.find(&folder, name)
    }

    fn mkdir(&self, context: &Context, parent: u64, name: &CStr, mode: u32, umask: u32) -> io::Result<Entry> {
        let folder = self.place(parent, name)?;
        let creator = self.creator(context, umask)?;
        let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
        self.noted(nix::sys::stat::mkdirat(&*folder, name, mode).map_err(io::Error::from))?;
        drop(creator);
        self.find(&folder, name)
    }

    fn unlink(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.unlink_in(parent, name, UnlinkatFlags::NoRemoveDir)
    }

    fn rmdir(&self, _: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.unlink_in(parent, name, UnlinkatFlags::RemoveDir)
    }

    fn rename(
        &self,
        _: &Context,
        old: u64,
        old_name: &CStr,
        new: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (from, to) = (self.place(old, old_name)?, self.place(new, new_name)?);
        sys::rename((&*from, old_name), (&*to, new_name), flags)
    }

    fn link(&self, _: &Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        let (node, folder) = (self.nodes.get(inode)?, self.place(parent, name)?);
        // Through /proc the descriptor's own file is linked, a symbolic link too. To name it by its descriptor alone
        // would take a capability.
        let proc = in_proc(&node.as_raw_fd());
        nix::unistd::linkat(
            &self.descriptors,
            proc.as_c_str(),
            &*folder,
            name,
            LinkatFlags::AT_SYMLINK_FOLLOW,
        )?;
        self.find(&folder, name)
    }

    fn open(
        &self,
        _: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let node = self.nodes.get(inode)?;
        let _modest = Modest::new(fuse_flags & FOPEN_IN_KILL_SUIDGID != 0)?;
        let file = self.open_node(&node, flags.cast_signed())?;
        Ok((Some(self.handles.add(inode, file)), self.opened(false), None))
    }

    fn create(
        &self,
        context: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let folder = self.place(parent, name)?;
        let (entry, file) = match self.noted(self.create_in(context, &folder, name, &args))? {
            Some(file) => {
                // By the open file, not by its name, which somebody may have given to another by now.
                let named = sys::open(&self.descriptors, &in_proc(&file), libc::O_PATH, 0)?;
                (self.found(&folder, named)?, file)
            }
            None => {
                let entry = self.find(&folder, name)?;
                let _modest = Modest::new(args.fuse_flags & FOPEN_IN_KILL_SUIDGID != 0)?;
                let opened = self
                    .nodes
                    .get(entry.inode)
                    .and_then(|node| self.open_node(&node, args.flags.cast_signed()));
                (entry, opened.inspect_err(|_| self.forget_all([(entry.inode, 1)]))?)
            }
        };
        Ok((entry, Some(self.handles.add(entry.inode, file)), self.opened(false), None))
    }

    fn read(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: u32,
    ) -> io::Result<usize> {
        let handle = self.handles.get(handle, inode)?;
        let size = to.available_bytes().min(size as usize);
        to.write_from(&mut sys::Borrowed(&handle.file), size, offset)
    }

    fn write(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _: Option<u64>,
        _: bool,
        _: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let handle = self.handles.get(handle, inode)?;
        let _modest = Modest::new(fuse_flags & WRITE_KILL_PRIV != 0)?;
        self.noted(from.read_to(&mut sys::Borrowed(&handle.file), size as usize, offset))
    }

    fn release(
        &self,
        _: &Context,
        inode: u64,
        _: u32,
        handle: u64,
        _: bool,
        _: bool,
        _: Option<u64>,
    ) -> io::Result<()> {
        self.handles.remove(handle, inode)
    }

    fn fsync(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.sync(handle, inode, data_only)
    }

    fn fsyncdir(&self, _: &Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        self.sync(handle, inode, data_only)
    }

    fn opendir(&self, _: &Context, inode: u64, _: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let node = self.nodes.get(inode)?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let folder = sys::open(&self.descriptors, &in_proc(&node.as_raw_fd()), flags, 0)?;
        Ok((Some(self.handles.add(inode, folder.into())), self.opened(true)))
    }

    fn releasedir(&self, _: &Context, inode: u64, _: u32, handle: u64) -> io::Result<()> {
        self.handles.remove(handle, inode)
    }

    fn readdir(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list(inode, handle, (size, offset), &mut |entry, _| add(entry))
    }

    fn readdirplus(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        size: u32,
        offset: u64,
        add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.list_with_attributes(inode, handle, (size, offset), add)
    }

    fn setxattr(&self, _: &Context, inode: u64, name: &CStr, value: &[u8], flags: u32) -> io::Result<()> {
        self.may_change()?;
        self.set_extended(inode, name, value, flags)
    }

    fn getxattr(&self, _: &Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.get_extended(inode, name, size)
    }

    fn listxattr(&self, _: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.list_extended(inode, size)
    }

    fn removexattr(&self, _: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.may_change()?;
        self.remove_extended(inode, name)
    }

    fn fallocate(
        &self,
        _: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let handle = self.handles.get(handle, inode)?;
        self.noted(sys::allocate(&handle.file, mode.cast_signed(), offset, length))
    }

    fn lseek(&self, _: &Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        let handle = self.handles.get(handle, inode)?;
        // A folder's position is its reader's.
        let _position = handle.position.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        sys::seek(&handle.file, offset, whence.cast_signed())
    }

    fn setupmapping(
        &self,
        _: &Context,
        inode: u64,
        _: u64,
        foffset: u64,
        len: u64,
        flags: u64,
        moffset: u64,
        window: &mut dyn FsCacheReqHandler,
    ) -> io::Result<()> {
        let file = self.file_to_map(inode, flags)?;
        window.map(foffset, moffset, len, flags, file.as_raw_fd())
    }

    fn removemapping(
        &self,
        _: &Context,
        inode: u64,
        requests: Vec<RemovemappingOne>,
        window: &mut dyn FsCacheReqHandler,
    ) -> io::Result<()> {
        self.nodes.get(inode)?;
        window.unmap(requests)
    }
}

#[cfg(test)]
mod tests;
