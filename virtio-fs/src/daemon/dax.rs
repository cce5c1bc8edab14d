//! The DAX window: addresses of the guest's at which the VMM maps pieces of our files, as the guest asks for them.
//!
//! 1. The VMM is told how large it is (GET_SHMEM_CONFIG), and gives us a channel to ask it for something.
//! 2. The guest says which piece of a file it wants, and where in the window (SETUPMAPPING). [`super::fs`] finds the file;
//!    every number of the guest's is checked here, before the VMM hears of it.
//! 3. The VMM gets the piece and a descriptor (SHMEM_MAP), and answers when it is there. Then the guest has its reply.
//! 4. The guest gives pieces back (REMOVEMAPPING), and the VMM is told (SHMEM_UNMAP); of all of them when the session ends.
//!
//! Contract with the VMM: a piece replaces what lies in its place, at once. That is how Linux's driver has a piece that
//! is read become one that is written, while others read it; to take the old one away first would leave a hole that they
//! fall into. When it cannot be replaced, the old one stays.
//!
//! A request waits for the VMM's answer, and a ring that is stopped waits for its requests. So the VMM must answer while
//! it waits for a ring to stop. One that closes the channel has its guest's requests end with an error.

use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, PoisonError, RwLock};

use fuse_backend_rs::abi::virtio_fs::{RemovemappingOne, SetupmappingFlags};
use fuse_backend_rs::transport::FsCacheReqHandler;
use vhost::vhost_user::message::{VhostUserMMap, VhostUserMMapFlags, VhostUserShMemConfig};
use vhost::vhost_user::{Backend as Vmm, Error as WireError, VhostUserFrontendReqHandler};

/// The window's number among the device's shared memory regions (VIRTIO 1.3, 5.11.4.2.1).
const REGION: u8 = 0;
/// What all places and lengths are multiples of.
const PAGE: u64 = 4096;
/// As many pieces are given back by one request: what Linux's driver puts into a page.
const PIECES: usize = 256;

/// The window.
pub(super) struct Window {
    len: u64,
    vmm: RwLock<Option<Arc<Vmm>>>,
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("len", &self.len).finish_non_exhaustive()
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Whether `len` bytes from `at` on are whole pages, at least one, of which the last ends at `end` or before.
fn is_within(at: u64, len: u64, end: u64) -> bool {
    let is_aligned = at.is_multiple_of(PAGE) && len.is_multiple_of(PAGE);
    is_aligned && len > 0 && at.checked_add(len).is_some_and(|last| last <= end)
}

impl Window {
    /// One of `len` bytes, without a VMM.
    pub(super) fn new(len: u64) -> Self {
        Self { len, vmm: RwLock::default() }
    }

    /// What the VMM is told of it.
    pub(super) fn config(&self) -> VhostUserShMemConfig {
        VhostUserShMemConfig::new(1, &[self.len])
    }

    /// The VMM is to be asked there from now on. (It is waited for if it has agreed to REPLY_ACK; the library does not say
    /// whether it has. One that has not gets what it asked for: a guest that looks before the piece is there.)
    pub(super) fn connect(&self, vmm: Vmm) {
        *self.vmm.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(vmm));
    }

    /// Has the VMM take away whatever is mapped. A VMM that is not there, or was never asked, has nothing.
    pub(super) fn clear(&self) {
        if let Err(why) = self.ask(|vmm| vmm.shmem_unmap(&piece(0, self.len))) {
            log::debug!("the window cannot be cleared: {why}");
        }
    }

    /// Has the VMM do something, and waits for its answer.
    fn ask(&self, what: impl FnOnce(&Vmm) -> io::Result<u64>) -> io::Result<()> {
        // Not under the lock: the VMM may hand over another channel while it leaves this one without an answer.
        let vmm = self.vmm.read().unwrap_or_else(PoisonError::into_inner).clone();
        let vmm = vmm.ok_or_else(|| errno(libc::ENOTCONN))?;
        let Err(why) = what(&vmm) else { return Ok(()) };
        match why.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(WireError::FrontendInternalError) => {
                log::debug!("the VMM does not do what it was asked for");
                Err(errno(libc::EIO))
            }
            Some(_) => {
                log::warn!("the VMM is not asked for mappings any more: {why}");
                // What else comes on it may be the answer to this.
                vmm.set_failed(libc::ENOTCONN);
                self.disconnect(&vmm);
                Err(errno(libc::ENOTCONN))
            }
            // It has not agreed to be asked.
            None => Err(errno(libc::EOPNOTSUPP)),
        }
    }

    /// Lets go of a channel, unless the VMM has handed over another one by now.
    fn disconnect(&self, which: &Arc<Vmm>) {
        let mut vmm = self.vmm.write().unwrap_or_else(PoisonError::into_inner);
        let gone = vmm.take_if(|vmm| Arc::ptr_eq(vmm, which));
        drop(vmm);
        drop(gone);
    }
}

/// The window, as requests have it changed.
pub(super) struct Changing(pub(super) Arc<Window>);

impl FsCacheReqHandler for Changing {
    fn map(&mut self, foffset: u64, moffset: u64, len: u64, flags: u64, fd: RawFd) -> io::Result<()> {
        let Self(window) = self;
        let rights = SetupmappingFlags::from_bits(flags).ok_or_else(|| errno(libc::EINVAL))?;
        // Memory that can be written and not read there is none, and what could be neither makes no sense.
        let is_readable = rights.contains(SetupmappingFlags::READ);
        let end_of_files = i64::MAX.cast_unsigned();
        if !is_readable || !is_within(foffset, len, end_of_files) || !is_within(moffset, len, window.len) {
            return Err(errno(libc::EINVAL));
        }
        let is_writable = rights.contains(SetupmappingFlags::WRITE);
        let flags = if is_writable { VhostUserMMapFlags::WRITABLE } else { VhostUserMMapFlags::empty() };
        let mut piece = piece(moffset, len);
        (piece.fd_offset, piece.flags) = (foffset, flags.bits());
        window.ask(|vmm| vmm.shmem_map(&piece, &fd))
    }

    fn unmap(&mut self, requests: Vec<RemovemappingOne>) -> io::Result<()> {
        let Self(window) = self;
        let are_sound = requests.iter().all(|one| is_within(one.moffset, one.len, window.len));
        if !are_sound || requests.is_empty() || requests.len() > PIECES {
            return Err(errno(libc::EINVAL));
        }
        // Linux's driver uses their places anew whatever it is told, so that one that fails is no reason to keep the rest.
        let each = |one: RemovemappingOne| window.ask(|vmm| vmm.shmem_unmap(&piece(one.moffset, one.len)));
        requests.into_iter().map(each).fold(Ok(()), Result::and)
    }
}

fn piece(at: u64, len: u64) -> VhostUserMMap {
    VhostUserMMap { shmid: REGION, shm_offset: at, len, ..VhostUserMMap::default() }
}

#[cfg(test)]
mod tests;
