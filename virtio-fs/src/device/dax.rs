//! DAX: the daemon maps files into the device's shared memory region, where the guest uses the host's page cache itself.
//!
//! The daemon asks over its own channel, and waits for the answer in the midst of a request of the guest's. A thread of its
//! own gives it: the device's other one may be waiting for the daemon to end that very request.
//!
//! 1. The region is there from the beginning to the device's end; its length is the daemon's.
//! 2. From a start to the stop behind it the thread answers whom it is told of ([`Dax::bell`]).
//! 3. When the stop is over, nothing is mapped. A daemon that is lost leaves what it mapped until then.
//!
//! Hazard: to look at a file, to map and to close it may take as long as its file system likes, whose server may hang with the
//! daemon, or be it. So the thread is not waited for longer than a daemon is.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use devices::confine::Confinement;
use devices::shared_memory::{self, Region};
use devices::virtio::vhost::requests::{self, Requests};
use devices::virtio::vhost::user::PATIENCE;
use devices::worker::{Events, HeldUp, Work, Worker};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The region, and the thread that changes it.
#[derive(Debug)]
pub(super) struct Dax {
    pub(super) region: Arc<Region>,
    bell: Arc<Bell>,
    worker: Worker<Answers>,
    /// Here while the device is at rest.
    answers: Option<Answers>,
    is_held_up: bool,
}

/// Tells the thread of a daemon.
#[derive(Debug)]
pub(super) struct Bell {
    event: EventFd,
    told: Mutex<Option<Requests>>,
}

impl Bell {
    /// Has the thread answer these requests from now on.
    pub(super) fn ring(&self, requests: &Requests) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(requests.clone());
        // EAGAIN: it rings already.
        let _ = self.event.write(1);
    }
}

impl Dax {
    /// A region of `len` bytes, with nothing in it, and the thread, which waits.
    ///
    /// # Errors
    /// A length that no region has, or the host has no room, no thread or no eventfd.
    pub(super) fn new(len: u64, confinement: &Confinement) -> io::Result<Self> {
        let region = Arc::new(Region::new(len)?);
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let bell = Arc::new(Bell { event, told: Mutex::default() });
        let calls: Vec<_> = requests::CALLS.into_iter().chain(shared_memory::CALLS).collect();
        let worker = Worker::new("fs-dax", &calls, confinement)?;
        let answers = Answers { region: region.clone(), bell: bell.clone(), requests: None };
        Ok(Self { region, bell, worker, answers: Some(answers), is_held_up: false })
    }

    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        if self.is_held_up {
            self.stop_within(Duration::ZERO);
        }
        let answers = self.answers.take().ok_or(io::ErrorKind::ResourceBusy)?;
        self.worker.start(answers).map_err(|(answers, why)| {
            self.answers = Some(answers);
            why
        })
    }

    /// Answers no more, and takes away what is mapped.
    pub(super) fn stop(&mut self) {
        self.stop_within(PATIENCE);
        if self.is_held_up {
            devices::warn_of_guest!(
                "a file that a guest is to see by DAX is held up by its file system; its share does not start again before"
            );
        }
    }

    fn stop_within(&mut self, limit: Duration) {
        match self.worker.stop_within(limit) {
            Ok(answers) => (self.answers, self.is_held_up) = (answers.or(self.answers.take()), false),
            Err(HeldUp) => self.is_held_up = true,
        }
    }
}

impl Drop for Dax {
    fn drop(&mut self) {
        if self.is_held_up {
            self.worker.abandon();
        }
    }
}

const BELL: u64 = 0;
const REQUEST: u64 = 1;

/// What the thread owns.
#[derive(Debug)]
struct Answers {
    region: Arc<Region>,
    bell: Arc<Bell>,
    requests: Option<Requests>,
}

impl Work for Answers {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add(&self.bell.event, BELL)
    }

    fn ready(&mut self, token: u64, events: &Events) -> ControlFlow<()> {
        let done = match token {
            BELL => self.attend(events),
            _ => self.requests.as_ref().map_or(Ok(()), |requests| requests.answer(Some(&self.region))),
        };
        if let Err(why) = done {
            tracing::debug!("a daemon asks for mappings no more: {why}");
            if let Some(requests) = &self.requests {
                requests.shut();
            }
            self.forget(events);
        }
        ControlFlow::Continue(())
    }

    fn over(&mut self) {
        self.requests = None;
        if let Err(why) = self.region.clear() {
            devices::warn_of_guest!("files that a guest had mapped stay in its memory: {why}");
        }
    }
}

impl Answers {
    fn attend(&mut self, events: &Events) -> io::Result<()> {
        let _ = self.bell.event.read();
        let told = self.bell.told.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(requests) = told else { return Ok(()) };
        self.forget(events);
        events.add(&requests, REQUEST)?;
        self.requests = Some(requests);
        Ok(())
    }

    fn forget(&mut self, events: &Events) {
        if let Some(requests) = self.requests.take() {
            // Others may hold it; left among the events it would be ready for ever.
            let _ = events.remove(&requests);
        }
    }
}

#[cfg(test)]
mod tests;
