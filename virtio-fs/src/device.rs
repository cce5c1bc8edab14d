//! The file system device (VIRTIO 1.3, 5.11), its queues run by a daemon over vhost-user.
//!
//! One queue for urgent requests and as many as wanted for the rest. Configuration: the tag by which the guest mounts
//! it, and the number of those queues; both are ours to say, the daemon has no part in them.
//!
//! 1. [`Fs::connect`] or [`Fs::from_socket`] meets the daemon, and starts a thread that waits.
//! 2. `start` moves daemon and rings into it; it hands over the rings and waits for bad news.
//! 3. A daemon that hangs up, or does not keep to the protocol, is gone. The thread then works the queues itself and
//!    answers every request, those that the daemon left behind too, with the error that a file system without its
//!    server gives: ENOTCONN.
//! 4. A daemon may map files into the guest's view where that is wanted (`dax`).
//! 5. `stop` has the thread take the rings back. The next start looks for a daemon at the socket's path anew.

mod alone;
mod dax;

use std::io;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use devices::confine::{Call, Confinement};
use devices::interrupt::Interrupt;
use devices::memory::GuestRam;
use devices::shared_memory::Region;
use devices::virtio::queue::Queue;
use devices::virtio::vhost::Deadline;
use devices::virtio::vhost::requests;
use devices::virtio::vhost::user::{self, Daemon, DaemonError, Needs};
use devices::virtio::{Activation, Features, Profile, Progress, QueueGrant, StartError, VirtioDevice, spec};
use devices::worker::{Events, Work, Worker};
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use dax::{Bell, Dax};

/// Bytes of a tag (5.11.4).
pub const TAG_MAX: usize = 36;
/// The tag and the number of request queues.
const CONFIG_LEN: u32 = 40;
/// The queue for urgent requests, before those for the rest (5.11.2).
const HIPRIO: u16 = 1;
/// How long a daemon started together with the machine may take to listen.
const LISTENING: Duration = Duration::from_secs(2);

/// What is shared, and over how many queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The name by which the guest mounts it, of 1 to [`TAG_MAX`] bytes.
    pub tag: String,
    /// Queues for requests, at least one.
    pub queues: u16,
    /// Size of each queue, a power of two.
    pub queue_size: u16,
    /// Whether the daemon may map files into the guest's view, in a region of as many bytes as it says.
    pub dax: bool,
}

impl Share {
    fn needs(&self) -> Needs {
        Needs { queues: self.queues + HIPRIO, shared_memory: self.dax }
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// Nobody listens.
    #[error("no daemon for the share \"{tag}\" listens at {path}: {source}")]
    Connect {
        /// Of which share.
        tag: String,
        /// Where it was looked for.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The daemon is not to be worked with.
    #[error("the daemon of the share \"{tag}\" cannot be used: {source}")]
    Daemon {
        /// Of which share.
        tag: String,
        /// Why not.
        source: DaemonError,
    },
    /// The daemon maps no files.
    #[error(
        "the daemon of the share \"{tag}\" has no window for DAX; start kiwi-virtiofsd with --dax-window=SIZE, or leave \
         dax=on out"
    )]
    NoWindow {
        /// Of which share.
        tag: String,
    },
    /// Its window cannot be.
    #[error(
        "the daemon of the share \"{tag}\" has a window of {len} bytes for DAX, which cannot be had: {source}"
    )]
    Window {
        /// Of which share.
        tag: String,
        /// As the daemon says.
        len: u64,
        /// Why not.
        source: io::Error,
    },
    /// The host has no thread, or nothing to wake it.
    #[error("the host refused to make a thread: {0}")]
    Thread(io::Error),
}

/// The device.
#[derive(Debug)]
pub struct Fs {
    share: Share,
    /// Here while the device is at rest and a daemon is there.
    daemon: Option<Daemon>,
    path: Option<PathBuf>,
    deadline: Arc<Deadline>,
    /// Here while the device is at rest: see [`Running`].
    begin: Option<EventFd>,
    worker: Worker<Running>,
    dax: Option<Dax>,
}

/// What a thread asks of the kernel to meet another daemon.
const MEET: [Call; 6] = [
    Call::Only(libc::SYS_socket, 0, &[libc::AF_UNIX as u32]),
    Call::Only(libc::SYS_socketpair, 0, &[libc::AF_UNIX as u32]),
    Call::Any(libc::SYS_connect),
    Call::Any(libc::SYS_eventfd2),
    Call::Only(libc::SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u32, libc::F_SETFL as u32]),
    #[allow(clippy::cast_possible_truncation)] // the kernel reads 32 bits of a request
    Call::Only(libc::SYS_ioctl, 1, &[libc::FIONBIO as u32]),
];

impl Fs {
    /// A device whose daemon listens at `path`.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn connect(share: Share, path: &Path, confinement: &Confinement) -> Result<Self, FsError> {
        let stream = find(path).map_err(|source| FsError::Connect {
            tag: share.tag.clone(),
            path: path.to_owned(),
            source,
        })?;
        Self::new(share, stream, Some(path.to_owned()), confinement)
    }

    /// A device whose daemon is at the other end of `socket`.
    ///
    /// # Errors
    /// See [`FsError`].
    pub fn from_socket(share: Share, socket: UnixStream, confinement: &Confinement) -> Result<Self, FsError> {
        Self::new(share, socket, None, confinement)
    }

    fn new(
        share: Share,
        stream: UnixStream,
        path: Option<PathBuf>,
        confinement: &Confinement,
    ) -> Result<Self, FsError> {
        let deadline = Deadline::new("fs-deadline", confinement).map_err(FsError::Thread)?;
        let deadline = Arc::new(deadline);
        let tag = || share.tag.clone();
        let daemon = Daemon::meet(stream, share.needs(), &deadline).map_err(|source| match source {
            DaemonError::NoRegion => FsError::NoWindow { tag: tag() },
            source => FsError::Daemon { tag: tag(), source },
        })?;
        let dax = daemon.region_len().map(|len| {
            Dax::new(len, confinement).map_err(|source| FsError::Window { tag: tag(), len, source })
        });
        let dax = dax.transpose()?;
        let mut calls = user::CALLS.to_vec();
        calls.extend(requests::CALLS);
        calls.extend(MEET.iter().filter(|_| path.is_some()).copied());
        let worker = Worker::new("fs", &calls, confinement).map_err(FsError::Thread)?;
        let begin = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(FsError::Thread)?;
        Ok(Self { share, daemon: Some(daemon), path, deadline, begin: Some(begin), worker, dax })
    }

    /// Takes back what outlives a start.
    fn rest(&mut self, work: Running) -> Vec<Progress> {
        (self.daemon, self.begin) = (work.daemon, Some(work.begin));
        work.progress
    }

    fn config(&self) -> Vec<u8> {
        let mut config = self.share.tag.as_bytes().to_vec();
        config.resize(TAG_MAX, 0);
        config.extend(u32::from(self.share.queues).to_le_bytes());
        config
    }
}

/// Waits for somebody to listen at `path`, for a moment.
fn find(path: &Path) -> io::Result<UnixStream> {
    let end = Instant::now() + LISTENING;
    loop {
        match user::connect(path) {
            Err(e) if is_early(&e) && Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            result => return result,
        }
    }
}

/// Whether the daemon may just not be there yet.
fn is_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}

impl VirtioDevice for Fs {
    fn profile(&self) -> Profile {
        Profile {
            kind: spec::device::FS,
            features: 0,
            queue_sizes: vec![self.share.queue_size; usize::from(self.share.queues + HIPRIO)],
            config_len: CONFIG_LEN,
        }
    }

    fn lends(&self) -> bool {
        true
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let config = self.config();
        let bytes = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or_default();
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn shared_memory(&self) -> Option<Arc<Region>> {
        self.dax.as_ref().map(|dax| dax.region.clone())
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        if let Some(dax) = &mut self.dax {
            dax.start().map_err(StartError::worker)?;
        }
        let Activation { ram, features, queues, needs_reset, .. } = activation;
        let begin = self.begin.take().ok_or_else(StartError::busy)?;
        let work = Running {
            share: self.share.clone(),
            daemon: self.daemon.take(),
            path: self.path.clone(),
            deadline: self.deadline.clone(),
            dax: self.dax.as_ref().map(|dax| (dax.region.len(), dax.bell())),
            begin,
            begun: false,
            grants: queues,
            alone: Vec::new(),
            doorbells: Vec::new(),
            ram,
            features,
            needs_reset,
            progress: Vec::new(),
        };
        self.worker.start(work).map_err(|(work, why)| {
            self.rest(work);
            StartError::worker(why)
        })
    }

    fn stop(&mut self) -> Vec<Progress> {
        let work = self.worker.stop();
        // Only now: the other thread may have waited for the daemon, and the daemon for an answer.
        if let Some(dax) = &mut self.dax {
            dax.stop();
        }
        work.map_or_else(Vec::new, |work| self.rest(work))
    }
}

/// Tokens of events; a queue's is its place among the grants.
const BEGIN: u64 = 1 << 32;
const DAEMON: u64 = BEGIN + 1;
const REQUEST: u64 = BEGIN + 2;

/// What the thread owns.
#[derive(Debug)]
struct Running {
    share: Share,
    daemon: Option<Daemon>,
    path: Option<PathBuf>,
    deadline: Arc<Deadline>,
    /// Where files may be mapped: how long the region is, and who answers.
    dax: Option<(u64, Arc<Bell>)>,
    /// Signalled at the start: the conversation with the daemon takes place when the vCPU that started us is at work
    /// again, so that a daemon that is slow to answer holds nobody up.
    begin: EventFd,
    /// Whether the daemon has the rings: a stop may come before.
    begun: bool,
    /// The queues, while a daemon has them.
    grants: Vec<QueueGrant>,
    /// The queues, when no daemon has them.
    alone: Vec<Queue>,
    /// What the driver signals, which a daemon had.
    doorbells: Vec<EventFd>,
    ram: GuestRam,
    features: Features,
    needs_reset: Interrupt,
    /// Known when it is over.
    progress: Vec<Progress>,
}

impl Work for Running {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add(&self.begin, BEGIN)?;
        self.begin.write(1)
    }

    fn ready(&mut self, token: u64, events: &Events) -> ControlFlow<()> {
        match token {
            BEGIN => self.begin(events),
            DAEMON => self.lost(&"it ended, or spoke unasked", events),
            REQUEST => self.refuse(events),
            queue => self.answer(queue),
        }
    }

    fn over(&mut self) {
        self.progress = match &mut self.daemon {
            None => self.alone.iter().map(Queue::progress).collect(),
            Some(_) if !self.begun => self.grants.iter().map(|grant| grant.from).collect(),
            Some(daemon) => {
                let stopped = daemon.stop(&self.ram.memory(), &self.grants);
                stopped.unwrap_or_else(|why| {
                    self.leave();
                    self.warn(&why);
                    self.grants.iter().map(|grant| grant.from).collect()
                })
            }
        };
    }
}

impl Running {
    fn begin(&mut self, events: &Events) -> ControlFlow<()> {
        let _ = self.begin.read();
        match self.hand_over(events) {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => self.lost(&why, events),
        }
    }

    fn hand_over(&mut self, events: &Events) -> Result<(), DaemonError> {
        let host = |what| move |source| DaemonError::Host { what, source };
        if let (None, Some(path)) = (&self.daemon, &self.path) {
            let stream = user::connect(path).map_err(host("connect to its socket"))?;
            self.daemon = Some(Daemon::meet(stream, self.share.needs(), &self.deadline)?);
        }
        // It stays in its place, so that one that fails now is left like one that fails later.
        let daemon = self.daemon.as_mut().ok_or(DaemonError::Closed)?;
        if daemon.region_len() != self.dax.as_ref().map(|(len, _)| *len) {
            return Err(DaemonError::Protocol(
                "its window for DAX has another length than before".to_owned(),
            ));
        }
        match (&self.dax, daemon.requests()) {
            (Some((_, bell)), Some(requests)) => bell.ring(requests),
            (_, Some(requests)) => events.add(requests, REQUEST).map_err(host("wait for it"))?,
            (_, None) => {}
        }
        daemon.start(&self.ram.memory(), self.features, &self.grants)?;
        events.add(daemon, DAEMON).map_err(host("wait for it"))?;
        self.begun = true;
        Ok(())
    }

    /// Answers what the daemon asks for: no.
    fn refuse(&self, events: &Events) -> ControlFlow<()> {
        if let Some(requests) = self.daemon.as_ref().and_then(Daemon::requests)
            && let Err(why) = requests.answer(None)
        {
            tracing::debug!("the daemon of the share \"{}\" asks no more: {why}", self.share.tag);
            requests.shut();
            // It would be ready for ever.
            let _ = events.remove(requests);
        }
        ControlFlow::Continue(())
    }

    fn leave(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.leave();
        }
    }

    fn warn(&self, why: &dyn std::fmt::Display) {
        devices::warn_of_guest!(
            "the daemon of the share \"{}\" is lost: {why}; the guest gets errors until it has one again",
            self.share.tag
        );
    }
}

#[cfg(test)]
mod tests;
