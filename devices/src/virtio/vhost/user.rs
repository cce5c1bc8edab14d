//! Queues that another process runs, over vhost-user (the frontend's side).
//!
//! 1. [`Daemon::meet`] negotiates over a connected socket, while the machine is built.
//! 2. [`Daemon::start`] tells guest memory, rings, kicks and calls, and switches the queues on.
//! 3. From here on nothing of this process is between the guest's driver and the daemon.
//! 4. [`Daemon::stop`] switches them off and asks how far they got. Then again from 2.
//!
//! The other process is not trusted: each conversation has an end ([`Deadline`]), replies are checked by the `vhost`
//! crate, and what the daemon asks of us is done where the device has a place for it ([`Requests`]). It shares the guest's memory, and with it all that the guest has.
//! After the first error the connection is shut, and the daemon is spoken to no more.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserInflight};
use vhost::vhost_user::{
    Error as WireError, Frontend, VhostUserFrontend, VhostUserProtocolFeatures as Protocol,
    VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Deadline;
use super::requests::Requests;
use crate::confine::Call;
use crate::virtio::spec::feature;
use crate::virtio::{Features, Progress, QueueGrant};

/// What the thread that talks to a daemon asks of the kernel.
pub const CALLS: [Call; 3] =
    [Call::Any(libc::SYS_sendmsg), Call::Any(libc::SYS_recvmsg), Call::Any(libc::SYS_shutdown)];

/// How long a daemon may take for everything that a start or a stop asks of it. A busy host is slow, a daemon that
/// answers not within this time is not going to.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What we can do with.
const WANTED: Protocol =
    Protocol::MQ.union(Protocol::REPLY_ACK).union(Protocol::BACKEND_REQ).union(Protocol::INFLIGHT_SHMFD);

/// What a device asks of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Queues to be run.
    pub queues: u16,
    /// A shared memory region with number 0.
    pub shared_memory: bool,
}

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// Why a daemon cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No answer in time.
    #[error("it did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// It hung up.
    #[error("it closed the connection")]
    Closed,
    /// Something else came than an answer.
    #[error("it does not keep to vhost-user: {0}")]
    Protocol(String),
    /// It is too old.
    #[error("it lacks the virtio features {0:#x}")]
    Features(u64),
    /// Fewer queues than wanted.
    #[error("it has {has} queues, and {wanted} are wanted")]
    Queues {
        /// What it says.
        has: u64,
        /// What was asked for.
        wanted: u16,
    },
    /// No shared memory region, or it would not wait for an answer (REPLY_ACK): the guest would look before a file is there.
    #[error("it has no shared memory region to map files into, or does not wait for answers (REPLY_ACK)")]
    NoRegion,
    /// Guest memory that no other process can map, or a ring that lies in none.
    #[error("the guest's memory cannot be shared with it")]
    Memory,
    /// The host refused something.
    #[error("the host refused to {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl From<WireError> for DaemonError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Disconnected | WireError::PartialMessage | WireError::SocketBroken(_) => Self::Closed,
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<vhost::Error> for DaemonError {
    fn from(error: vhost::Error) -> Self {
        match error {
            vhost::Error::VhostUserProtocol(error) => error.into(),
            vhost::Error::InvalidGuestMemoryRegion | vhost::Error::InvalidGuestMemory => Self::Memory,
            other => Self::Protocol(other.to_string()),
        }
    }
}

/// Connects to who listens at `path`, without waiting for a queue of others to shorten.
///
/// # Errors
/// Nobody listens there, or too many want to be heard (`WouldBlock`).
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
    let socket = socket(kind.0, kind.1, kind.2, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(socket.into())
}

/// A daemon that was met.
pub struct Daemon {
    frontend: Frontend,
    socket: Arc<UnixStream>,
    deadline: Arc<Deadline>,
    features: u64,
    protocol: Protocol,
    /// The daemon's way to ask, where it wants one.
    requests: Option<Requests>,
    /// Length of its shared memory region, where one was asked for.
    region_len: Option<u64>,
    /// Where the daemon notes what it is at, for a successor of its own.
    inflight: Option<(VhostUserInflight, std::fs::File)>,
    /// Where calls go that nobody wants to hear.
    unheard: EventFd,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("features", &self.features).field("protocol", &self.protocol).finish()
    }
}

impl AsRawFd for Daemon {
    /// Readable when the daemon hung up, or speaks unasked, which it must not.
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Daemon {
    /// Meets the daemon at the other end of `stream`, which must have what is needed.
    ///
    /// # Errors
    /// See [`DaemonError`].
    pub fn meet(stream: UnixStream, needs: Needs, deadline: &Arc<Deadline>) -> Result<Self, DaemonError> {
        let host = |what| move |source| DaemonError::Host { what, source };
        let socket = Arc::new(stream.try_clone().map_err(host("duplicate a socket"))?);
        let unheard = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an eventfd"))?;
        let mut daemon = Self {
            frontend: Frontend::from_stream(stream, needs.queues.into()),
            socket,
            deadline: deadline.clone(),
            features: 0,
            protocol: Protocol::empty(),
            requests: None,
            region_len: None,
            inflight: None,
            unheard,
        };
        daemon.talk(|daemon| daemon.negotiate(needs))?;
        Ok(daemon)
    }

    /// The features that the daemon understands, of rings and of the device.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Has a conversation, which ends in time. One that fails is the last.
    fn talk<T>(&mut self, say: impl FnOnce(&mut Self) -> Result<T, DaemonError>) -> Result<T, DaemonError> {
        let conversation = self.deadline.within(PATIENCE, &self.socket);
        say(self).map_err(|why| {
            let _ = self.socket.shutdown(Shutdown::Both);
            if conversation.expired() { DaemonError::Silent } else { why }
        })
    }

    fn negotiate(&mut self, Needs { queues, shared_memory }: Needs) -> Result<(), DaemonError> {
        self.frontend.set_owner()?;
        self.features = self.frontend.get_features()?;
        let lacking = feature::COMMON & !self.features;
        if lacking != 0 {
            return Err(DaemonError::Features(lacking));
        }
        if self.features & PROTOCOL_FEATURES == 0 {
            return if shared_memory { Err(DaemonError::NoRegion) } else { Ok(()) };
        }
        let wanted = if shared_memory { WANTED | Protocol::SHMEM } else { WANTED };
        self.protocol = self.frontend.get_protocol_features()? & wanted;
        self.frontend.set_protocol_features(self.protocol)?;
        if self.protocol.contains(Protocol::REPLY_ACK) {
            self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        if self.protocol.contains(Protocol::MQ) {
            let has = self.frontend.get_queue_num()?;
            if has < queues.into() {
                return Err(DaemonError::Queues { has, wanted: queues });
            }
        }
        if shared_memory {
            self.region_len = Some(self.ask_for_region()?);
        }
        self.open_requests()
    }

    fn ask_for_region(&mut self) -> Result<u64, DaemonError> {
        if !self.protocol.contains(Protocol::SHMEM | Protocol::BACKEND_REQ | Protocol::REPLY_ACK) {
            return Err(DaemonError::NoRegion);
        }
        let config = self.frontend.get_shmem_config()?;
        let first = config.memory_sizes.first().copied().filter(|len| *len > 0);
        first.ok_or(DaemonError::NoRegion)
    }

    fn open_requests(&mut self) -> Result<(), DaemonError> {
        if self.protocol.contains(Protocol::BACKEND_REQ) {
            let make = |source| DaemonError::Host { what: "make a pair of sockets", source };
            let (ours, theirs) = Requests::new().map_err(make)?;
            self.frontend.set_backend_request_fd(&theirs)?;
            self.requests = Some(ours);
        }
        Ok(())
    }

    /// What the daemon asks for comes here; `None` if it has no way to. To be answered while it runs the queues, by another
    /// thread than the one that stops it where it waits for an answer: the stop waits for the daemon.
    pub fn requests(&self) -> Option<&Requests> {
        self.requests.as_ref()
    }

    /// Has nothing to do with it any more: who answers its requests hears that there will be none.
    pub fn leave(self) {
        if let Some(requests) = &self.requests {
            requests.shut();
        }
    }

    /// Length of the shared memory region that was asked for.
    pub fn region_len(&self) -> Option<u64> {
        self.region_len
    }

    /// Has the daemon work `rings`.
    ///
    /// # Errors
    /// See [`DaemonError`]; nothing can be said to it any more.
    pub fn start(
        &mut self,
        ram: &GuestMemoryMmap,
        features: Features,
        rings: &[QueueGrant],
    ) -> Result<(), DaemonError> {
        self.talk(|daemon| daemon.tell(ram, features, rings))
    }

    fn tell(
        &mut self,
        ram: &GuestMemoryMmap,
        features: Features,
        rings: &[QueueGrant],
    ) -> Result<(), DaemonError> {
        let enables = self.features & PROTOCOL_FEATURES;
        self.frontend.set_features(features.0 & self.features | enables)?;
        self.share_inflight(rings)?;
        let regions: Result<Vec<_>, _> =
            ram.iter().map(VhostUserMemoryRegionInfo::from_guest_region).collect();
        self.frontend.set_mem_table(&regions?)?;
        for grant in rings {
            self.place(ram, grant)?;
        }
        for grant in rings.iter().filter(|_| enables != 0) {
            self.frontend.set_vring_enable(grant.index.0.into(), true)?;
        }
        Ok(())
    }

    /// Gives the daemon a place to note what it is at; the same one at each start.
    fn share_inflight(&mut self, rings: &[QueueGrant]) -> Result<(), DaemonError> {
        if !self.protocol.contains(Protocol::INFLIGHT_SHMFD) {
            return Ok(());
        }
        let queues = rings.iter().map(|grant| grant.index.0 + 1).max().unwrap_or(1);
        let size = rings.iter().map(|grant| grant.ring.size).max().unwrap_or(1);
        // Fresh for every driver: what an earlier one left unfinished went with its rings.
        let found = self.frontend.get_inflight_fd(&VhostUserInflight::new(0, 0, queues, size))?;
        self.frontend.set_inflight_fd(&found.0, found.1.as_raw_fd())?;
        self.inflight = Some(found);
        Ok(())
    }

    fn place(&mut self, ram: &GuestMemoryMmap, grant: &QueueGrant) -> Result<(), DaemonError> {
        let (queue, ring) = (usize::from(grant.index.0), grant.ring);
        // Rings are told by this process's addresses, buffers by the guest's.
        let here = |at| {
            ram.get_host_address(GuestAddress(at)).map(|p| p.addr() as u64).map_err(|_| DaemonError::Memory)
        };
        self.frontend.set_vring_num(queue, ring.size)?;
        self.frontend.set_vring_base(queue, grant.from.next_avail)?;
        let config = VringConfigData {
            queue_max_size: ring.size,
            queue_size: ring.size,
            flags: 0,
            desc_table_addr: here(ring.desc)?,
            used_ring_addr: here(ring.used)?,
            avail_ring_addr: here(ring.avail)?,
            log_addr: None,
        };
        self.frontend.set_vring_addr(queue, &config)?;
        self.frontend.set_vring_call(queue, grant.call.lent().unwrap_or(&self.unheard))?;
        Ok(self.frontend.set_vring_kick(queue, &grant.kick)?)
    }

    /// Has the daemon work no ring any more; how far each of `rings`, those of the start, got.
    ///
    /// # Errors
    /// See [`DaemonError`]; nothing can be said to it any more.
    pub fn stop(
        &mut self,
        ram: &GuestMemoryMmap,
        rings: &[QueueGrant],
    ) -> Result<Vec<Progress>, DaemonError> {
        let enables = self.features & PROTOCOL_FEATURES != 0;
        self.talk(|daemon| {
            for grant in rings.iter().filter(|_| enables) {
                daemon.frontend.set_vring_enable(grant.index.0.into(), false)?;
            }
            rings.iter().map(|grant| daemon.progress(ram, grant)).collect()
        })
    }

    fn progress(&self, ram: &GuestMemoryMmap, grant: &QueueGrant) -> Result<Progress, DaemonError> {
        let base = self.frontend.get_vring_base(grant.index.0.into())?;
        // The daemon keeps its place in the used ring to itself, but has shown it to the driver (2.7.8).
        let used = grant.ring.used.checked_add(2).map(GuestAddress);
        let shown = used.and_then(|at| ram.read_obj::<u16>(at).ok());
        Ok(Progress {
            next_avail: u16::try_from(base).map_err(|_| DaemonError::Protocol("a base past 65535".into()))?,
            next_used: shown.map_or(grant.from.next_used, u16::from_le),
        })
    }
}
