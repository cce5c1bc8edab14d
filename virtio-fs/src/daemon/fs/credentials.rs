//! What a thread is while it serves a request: whose files it makes, and with which rights.

use std::io;

use caps::{CapSet, Capability};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// A thread that makes files as somebody of the guest's; the daemon itself again when dropped.
#[derive(Debug)]
pub(super) struct Creator {
    switched: bool,
    masked: bool,
}

impl Creator {
    /// Makes files as `uid` and `gid`, which has the kernel see to the rules of groups and quotas. Where `mask` is
    /// given, a directory's default ACL comes before it.
    ///
    /// # Errors
    /// The daemon may not be anybody else: it runs unprivileged, and the file would be somebody else's.
    pub(super) fn new(uid: u32, gid: u32, mask: Option<u32>) -> io::Result<Self> {
        if let Some(mask) = mask {
            umask(Mode::from_bits_truncate(mask));
        }
        let creator = Self { switched: (uid, gid) != (0, 0), masked: mask.is_some() };
        if creator.switched {
            // Both say what was before, and fail in silence; asking for nobody changes nothing.
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            let is = (setfsuid(Uid::from_raw(u32::MAX)).as_raw(), setfsgid(Gid::from_raw(u32::MAX)).as_raw());
            if is != (uid, gid) {
                return Err(io::Error::from_raw_os_error(libc::EPERM));
            }
            // The guest's kernel has judged already, by groups and ACLs that are not known here.
            caps::raise(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE).map_err(io::Error::other)?;
        }
        Ok(creator)
    }
}

impl Drop for Creator {
    fn drop(&mut self) {
        if self.switched {
            // The kernel gives the rights that belong to files back with the number 0.
            setfsuid(Uid::from_raw(0));
            setfsgid(Gid::from_raw(0));
        }
        if self.masked {
            umask(Mode::empty());
        }
    }
}

/// A thread whose writes take set-user-id bits away, as everybody's do but root's.
#[derive(Debug)]
pub(super) struct Modest(bool);

impl Modest {
    /// Is so if `wanted`.
    ///
    /// # Errors
    /// The right cannot be laid down.
    pub(super) fn new(wanted: bool) -> io::Result<Self> {
        if wanted {
            caps::drop(None, CapSet::Effective, Capability::CAP_FSETID).map_err(io::Error::other)?;
        }
        Ok(Self(wanted))
    }
}

impl Drop for Modest {
    fn drop(&mut self) {
        if self.0 {
            // It is still permitted, unless it never was.
            let _ = caps::raise(None, CapSet::Effective, Capability::CAP_FSETID);
        }
    }
}
