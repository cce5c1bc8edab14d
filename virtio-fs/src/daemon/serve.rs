//! Queues and threads: the daemon's side of vhost-user.
//!
//! 1. A thread waits for each queue's kicks. It serves what there is itself, or hands it to the pool's threads.
//! 2. A request is taken from the ring, served, and given back; in between it is counted.
//! 3. A ring that the VMM stops is given no more requests, and the VMM gets its answer when the last one is back: after
//!    that nothing here touches the guest's memory on its behalf.
//! 4. The VMM closes its socket: the daemon ends, whatever requests still wait for.

use std::cell::Cell;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::Builder;
use std::time::Duration;

use fuse_backend_rs::api::server::Server;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserVirtioFeatures};
use vhost::vhost_user::{Backend as Vmm, Error as WireError, Listener};
use vhost_user_backend::{Error, VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use super::bridge::{Memory, Request};
use super::fs::Shared;
use super::options::Options;
use devices::virtio::spec::feature;

/// One for urgent requests, eight for the rest, each with a thread of its own.
const QUEUES: usize = 9;
const QUEUE_SIZE: usize = 1024;
/// How long requests may take that are served when the VMM has hung up.
const END: Duration = Duration::from_secs(2);

type GuestRam = GuestMemoryAtomic<GuestMemoryMmap>;
type Ring = VringMutex<GuestRam>;

/// A request for the pool, of a queue and its ring.
type Job = (usize, Ring, Request);

/// Requests that are out, of one queue.
#[derive(Debug, Default)]
struct Out {
    taken: Mutex<Taken>,
    none: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    /// Whether somebody waits for none to be left. To wake one that may not be there is a system call for each request.
    is_awaited: bool,
}

impl Out {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one_back(&self) {
        let mut taken = self.lock();
        taken.count -= 1;
        if taken.count == 0 && taken.is_awaited {
            self.none.notify_all();
        }
    }

    fn wait_for_none(&self) {
        let mut taken = self.lock();
        taken.is_awaited = true;
        let none = self.none.wait_while(taken, |taken| taken.count > 0);
        none.unwrap_or_else(PoisonError::into_inner).is_awaited = false;
    }
}

/// What serves the queues.
struct Backend {
    shared: Arc<Shared>,
    server: Server<Arc<Shared>>,
    memory: RwLock<Option<Memory>>,
    out: [Out; QUEUES],
    pool: Option<Sender<Job>>,
}

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

impl Backend {
    fn memory(&self) -> Option<Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the next request of a queue, and counts it.
    fn take(&self, queue: usize, ring: &Ring) -> io::Result<Option<Request>> {
        let Some(memory) = self.memory() else { return Ok(None) };
        let out = self.out.get(queue).ok_or(io::ErrorKind::NotFound)?;
        // The ring is looked at under the count's lock, so that who has stopped it waits for what was taken before.
        let mut taken = out.lock();
        let mut state = ring.get_mut();
        let state = state.get_queue_mut();
        let request = memory.next(state)?;
        if request.is_some() && taken.count >= usize::from(state.size()) {
            // No driver has so many buffers; one that says so could have the pool's requests grow without end.
            state.set_ready(false);
            return Err(io::Error::other("more requests were made at once than it has room for"));
        }
        taken.count += usize::from(request.is_some());
        Ok(request)
    }

    fn serve(&self, (queue, ring, request): &Job) {
        if !ENTERED.replace(true)
            && let Err(why) = self.shared.enter()
        {
            log::error!("a thread cannot be prepared: {why}");
        }
        let len = request.serve(&self.server, self.shared.window());
        if let Err(why) = give_back(ring, request.head(), len) {
            log::warn!("the guest's ring is broken: {why}");
        }
        if let Some(out) = self.out.get(*queue) {
            out.one_back();
        }
    }

    fn drain(&self, queue: usize, ring: &Ring) -> io::Result<()> {
        // One that was stopped, or is broken, may well have more.
        while is_live(ring) {
            ring.disable_notification().map_err(io::Error::other)?;
            while let Some(request) = self.take(queue, ring)? {
                let job = (queue, ring.clone(), request);
                match &self.pool {
                    // The pool lives as long as this.
                    Some(pool) => drop(pool.send(job)),
                    None => self.serve(&job),
                }
            }
            if !is_live(ring) || !ring.enable_notification().map_err(io::Error::other)? {
                break;
            }
        }
        Ok(())
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                Ok(job) => self.serve(&job),
                Err(_) => return,
            }
        }
    }
}

fn is_live(ring: &Ring) -> bool {
    ring.get_ref().get_queue().ready()
}

fn give_back(ring: &Ring, head: u16, len: u32) -> io::Result<()> {
    let mut state = ring.get_mut();
    state.add_used(head, len).map_err(io::Error::other)?;
    if state.needs_notification().map_err(io::Error::other)? {
        state.signal_used_queue()?;
    }
    Ok(())
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        feature::COMMON | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        let to_ask = VhostUserProtocolFeatures::BACKEND_REQ | VhostUserProtocolFeatures::SHMEM;
        features.set(to_ask, self.shared.window().is_some());
        features
    }

    fn get_shmem_config(&self) -> io::Result<VhostUserShMemConfig> {
        Ok(self.shared.window().map(|window| window.config()).unwrap_or_default())
    }

    fn set_backend_req_fd(&self, vmm: Vmm) {
        if let Some(window) = self.shared.window() {
            window.connect(vmm);
        }
    }

    fn set_event_idx(&self, _: bool) {
        // The rings have been told already.
    }

    fn update_memory(&self, memory: GuestRam) -> io::Result<()> {
        let memory = Memory::new((*memory.memory()).clone())?;
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..QUEUES).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        // Without one a thread never ends; a host short of descriptors ends all of them with the process.
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        if let Some(out) = usize::try_from(queue).ok().and_then(|queue| self.out.get(queue)) {
            out.wait_for_none();
        }
        Ok(())
    }

    fn handle_event(&self, _: u16, _: EventSet, rings: &[Ring], queue: usize) -> io::Result<()> {
        // A thread has one queue, whose number is the thread's. An error here would end the thread; a broken ring only
        // is not served until it is set up anew.
        if let Some(ring) = rings.first()
            && let Err(why) = self.drain(queue, ring)
        {
            log::warn!("the guest broke its ring: {why}");
        }
        Ok(())
    }
}

/// The library's errors are no errors by Rust's lights.
fn told(error: Error) -> io::Error {
    io::Error::other(error.to_string())
}

/// The daemon, ready for its VMM.
pub(super) struct Service(VhostUserDaemon<Arc<Backend>>);

impl Service {
    /// Starts the threads.
    ///
    /// # Errors
    /// The host has no threads to give.
    pub(super) fn new(shared: Shared, options: &Options) -> io::Result<Self> {
        let (shared, pool) = (Arc::new(shared), options.threads);
        let (send, receive) = channel();
        let backend = Arc::new(Backend {
            server: Server::new(shared.clone()),
            shared,
            memory: RwLock::default(),
            out: Default::default(),
            pool: (pool > 0).then_some(send),
        });
        let jobs = Arc::new(Mutex::new(receive));
        for number in 0..pool {
            let (backend, jobs) = (backend.clone(), jobs.clone());
            Builder::new().name(format!("pool{number}")).spawn(move || backend.work(&jobs))?;
        }
        let ram = GuestRam::new(GuestMemoryMmap::new());
        VhostUserDaemon::new("vhost-user".to_owned(), backend, ram).map(Self).map_err(told)
    }

    /// Serves the one VMM that connects, to its end.
    ///
    /// # Errors
    /// It does not keep to the protocol.
    pub(super) fn serve(mut self, listener: UnixListener) -> io::Result<()> {
        let mut listener = Listener::from(listener);
        self.0.start(&mut listener).map_err(told)?;
        // Nobody else shall wait for a turn that never comes.
        drop(listener);
        let result = self.0.wait();
        self.end();
        match result {
            Err(Error::HandleRequest(
                WireError::Disconnected | WireError::PartialMessage | WireError::SocketBroken(_),
            )) => Ok(()),
            result => result.map_err(told),
        }
    }

    /// Waits for the queues' threads, but not for one that waits for the VMM itself: that one ends with the process.
    fn end(self) {
        let (ended, end) = channel::<()>();
        let wait = move || {
            drop(self);
            drop(ended);
        };
        if Builder::new().name("end".to_owned()).spawn(wait).is_ok() {
            let _ = end.recv_timeout(END);
        }
    }
}

#[cfg(test)]
mod tests;
