//! Taps: network interfaces whose cable's other end is a file.
//!
//! 1. [`Tap::open`] makes each queue of a tap by its name, or [`Tap::inherit`] takes queues that others made.
//! 2. Either way the header's size is set by us, each queue takes part, and what offloads the tap knows is asked.
//! 3. A tap that has been deleted says so to whoever reads, writes or asks.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use vm_memory::VolatileSlice;

use crate::{header, sys};

const NODE: &str = "/dev/net/tun";
/// A tap that gives whole packets with a virtio header and nothing else in front.
const FLAGS: i32 = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// Why a tap is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The host's kernel has no taps.
    #[error("{NODE} is not there: load the module, with modprobe tun")]
    NoNode,
    /// It has, but not for us.
    #[error("{NODE} cannot be opened: {0}; run vmm as a user who may, or give it an open tap with fd=N")]
    Node(io::Error),
    /// No such tap, and no right to make one.
    #[error(
        "there is no tap {0} and this user may not make it; make it first: ip tuntap add {0} mode tap user USER"
    )]
    Missing(String),
    /// An interface of another kind.
    #[error("the network interface {0} is no tap")]
    Kind(String),
    /// Somebody else's tap.
    #[error("the tap {0} belongs to another user; make it with: ip tuntap add {0} mode tap user USER")]
    Permission(String),
    /// Opened by somebody else.
    #[error("the tap {0} is in use by another process")]
    Busy(String),
    /// A tap with one queue.
    #[error("the tap {0} has a single queue; make it with multi_queue, or leave queues= out")]
    SingleQueue(String),
    /// No tap at all.
    #[error("descriptor {0} is no tap")]
    Descriptor(RawFd),
    /// A tap without headers, or with others.
    #[error("the tap of descriptor {0} was opened otherwise than with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR")]
    Flags(RawFd),
    /// Queues of two taps.
    #[error("the descriptors given are of two taps, {0} and {1}; all must be queues of one")]
    Two(String, String),
    /// The host refused something.
    #[error("the host refused to {what} the tap {name}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Which tap.
        name: String,
        /// What the host answered.
        source: io::Error,
    },
}

impl TapError {
    /// Whether the caller gave something that cannot be; otherwise the host lacks something.
    pub const fn is_callers(&self) -> bool {
        matches!(
            self,
            Self::Kind(_) | Self::SingleQueue(_) | Self::Descriptor(_) | Self::Flags(_) | Self::Two(..)
        )
    }
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    /// Whether it is one of several queues, that can be told not to take part.
    multi: bool,
    /// The offloads it knows (TUN_F_*).
    offloads: u32,
    /// No tap at all, but a socket in its place.
    wire: bool,
}

impl Tap {
    /// Opens `queues` queues of the tap `name`, which is made, and brought up, if there is none; with `mtu` then.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn open(name: &str, queues: usize, mtu: Option<u16>) -> Result<Vec<Self>, TapError> {
        let there = interface(name).exists();
        let taps: Vec<_> = (0..queues).map(|_| Self::queue(name, queues > 1)).collect::<Result<_, _>>()?;
        if !there {
            set_up(name, mtu).map_err(|source| host("bring up", name, source))?;
        }
        Ok(taps)
    }

    fn queue(name: &str, multi: bool) -> Result<Self, TapError> {
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(NODE);
        let file = opened.map_err(|why| match why.kind() {
            ErrorKind::NotFound => TapError::NoNode,
            _ if matches!(why.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => TapError::NoNode,
            _ => TapError::Node(why),
        })?;
        let flags = |multi| if multi { FLAGS | libc::IFF_MULTI_QUEUE } else { FLAGS };
        let made = sys::set_iff(&file, name, flags(multi));
        // One queue may be one of many: then the tap wants to be told so.
        let made = made.or_else(|why| match why.raw_os_error() {
            Some(libc::EINVAL) if !multi => sys::set_iff(&file, name, flags(true)),
            _ => Err(why),
        });
        made.map_err(|why| refused(name, why))?;
        Self::prepare(file, 0)
    }

    /// Takes queues that somebody else has opened, each with its number for what is to be said about it.
    ///
    /// # Errors
    /// See [`TapError`].
    pub fn inherit(files: Vec<(RawFd, File)>) -> Result<Vec<Self>, TapError> {
        let taps: Vec<_> =
            files.into_iter().map(|(fd, file)| Self::prepare(file, fd)).collect::<Result<_, _>>()?;
        for (one, other) in taps.iter().zip(taps.iter().skip(1)) {
            if one.name != other.name {
                return Err(TapError::Two(one.name.clone(), other.name.clone()));
            }
        }
        Ok(taps)
    }

    fn prepare(file: File, fd: RawFd) -> Result<Self, TapError> {
        let (name, flags) = sys::get_iff(&file).map_err(|_| TapError::Descriptor(fd))?;
        if flags & FLAGS != FLAGS {
            return Err(TapError::Flags(fd));
        }
        let not = |what| move |source| (what, source);
        let set = nonblocking(&file).map_err(not("make calls that do not wait for"));
        let size = libc::c_int::try_from(header::LEN).unwrap_or(0);
        let set = set.and_then(|()| sys::set_header_size(&file, size).map_err(not("set the header of")));
        set.map_err(|(what, source)| host(what, &name, source))?;
        let offloads = [header::OFFLOADS_WITH_UFO, header::OFFLOADS_BUT_UFO];
        let known = offloads.into_iter().find(|flags| sys::set_offload(&file, *flags).is_ok()).unwrap_or(0);
        let multi = flags & libc::IFF_MULTI_QUEUE != 0;
        let tap = Self { file, name, multi, offloads: known, wire: false };
        tap.set_offloads(0).map_err(|source| host("reset the offloads of", &tap.name, source))?;
        tap.take_part(true).map_err(|source| host("attach a queue of", &tap.name, source))?;
        Ok(tap)
    }

    /// A socket that keeps the bounds of packets, in a tap's place.
    #[cfg(any(test, feature = "testing"))]
    pub fn wire(socket: std::os::fd::OwnedFd) -> io::Result<Self> {
        let file = File::from(socket);
        nonblocking(&file)?;
        let offloads = header::OFFLOADS_WITH_UFO;
        Ok(Self { file, name: "wire".to_owned(), multi: false, offloads, wire: true })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads it knows.
    pub(crate) fn offloads(&self) -> u32 {
        self.offloads
    }

    /// Another descriptor of the same queue.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, name: self.name.clone(), ..*self })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Says which offloads the guest takes.
    pub(crate) fn set_offloads(&self, flags: u32) -> io::Result<()> {
        if self.wire || self.offloads == 0 { Ok(()) } else { sys::set_offload(&self.file, flags) }
    }

    /// Has this queue be given packets, or not.
    pub(crate) fn take_part(&self, on: bool) -> io::Result<()> {
        if !self.multi {
            return Ok(());
        }
        let is_on = sys::get_iff(&self.file)?.1 & libc::IFF_DETACH_QUEUE == 0;
        // The kernel refuses what is so already.
        if is_on == on { Ok(()) } else { sys::set_queue(&self.file, on) }
    }

    /// Whether the interface is still there.
    pub(crate) fn is_there(&self) -> bool {
        self.wire || sys::get_iff(&self.file).is_ok()
    }

    /// One packet into `slices`, with its header; nothing: it is gone.
    pub(crate) fn read(&self, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
        sys::read(&self.file, slices)
    }

    /// `slices` as one packet, its header in front.
    pub(crate) fn write(&self, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
        sys::write(&self.file, slices)
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn host(what: &'static str, name: &str, source: io::Error) -> TapError {
    TapError::Host { what, name: name.to_owned(), source }
}

fn interface(name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// What the kernel's refusal of a tap's name means.
fn refused(name: &str, why: io::Error) -> TapError {
    let owned = name.to_owned();
    let (there, tap) = (interface(name).exists(), interface(name).join("tun_flags").exists());
    match why.raw_os_error() {
        Some(libc::EPERM) if !there => TapError::Missing(owned),
        Some(libc::EPERM) if tap => TapError::Permission(owned),
        Some(libc::EBUSY) if tap => TapError::Busy(owned),
        Some(libc::EINVAL | libc::EBUSY | libc::EPERM) if there && !tap => TapError::Kind(owned),
        Some(libc::EINVAL) if tap => TapError::SingleQueue(owned),
        _ => host("open", name, why),
    }
}

fn set_up(name: &str, mtu: Option<u16>) -> io::Result<()> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    mtu.map_or(Ok(()), |mtu| sys::set_mtu(&any, name, mtu))?;
    sys::bring_up(&any, name)
}

fn nonblocking(file: &File) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_something_else_is_refused_by_its_number() {
        let null = File::open("/dev/null").expect("a file");
        let refused = Tap::inherit(vec![(9, null)]).expect_err("no tap");
        assert_eq!(refused.to_string(), "descriptor 9 is no tap");
        assert!(refused.is_callers());
    }

    #[test]
    fn an_interface_that_is_no_tap_is_told_from_a_tap() {
        let einval = || io::Error::from_raw_os_error(libc::EINVAL);
        assert_eq!(refused("lo", einval()).to_string(), "the network interface lo is no tap");
        let eperm = io::Error::from_raw_os_error(libc::EPERM);
        assert!(matches!(refused("no-such-tap", eperm), TapError::Missing(_)));
        assert!(matches!(refused("no-such-tap", einval()), TapError::Host { .. }));
    }
}
