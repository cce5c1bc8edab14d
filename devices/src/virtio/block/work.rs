//! A queue of a disk at work, in a thread of its own.
//!
//! Requests go to the host by io_uring, where several are under way at once, or one after the other by plain calls.
//! Ranges (discard, zeros) are seldom, and are done by plain calls always.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use vm_memory::GuestAddressSpace;

use super::disk::Disk;
use super::request::{self, Fate, Range, Status, Step};
use super::sys::{self, Op, Ring};
use crate::confine::Call;
use crate::interrupt::Interrupt;
use crate::memory::{GuestRam, Mapped};
use crate::rate::{Gate, Limiter};
use crate::virtio::Features;
use crate::virtio::chain::Chain;
use crate::virtio::queue::{Queue, QueueError};
use crate::worker::{Events, Work};

const KICK: u64 = 0;
const DONE: u64 = 1;
const TIMER: u64 = 2;

/// What a disk's thread asks of the kernel; what goes through the ring is restricted by the ring itself.
pub(super) const CALLS: [Call; 7] = [
    Call::Any(libc::SYS_io_uring_enter),
    Call::Any(libc::SYS_preadv),
    Call::Any(libc::SYS_pwritev2),
    Call::Any(libc::SYS_fdatasync),
    Call::Any(libc::SYS_fallocate),
    Call::Only(libc::SYS_ioctl, 1, &[sys::BLKDISCARD]),
    // Zeros, where the host cannot make them otherwise.
    Call::Any(libc::SYS_pwrite64),
];

/// Bytes that are moved by plain calls before whoever wants the queue stopped is heard.
const TURN: usize = 32 << 20;

/// Bytes of a disk's requests that the host has at once, unless a single one has more: a reset waits for all of them.
pub(super) const UNDER_WAY: usize = 64 << 20;

/// How requests get to the host.
pub(super) enum Engine {
    /// Many at once.
    Ring(Box<Ring<Chain>>),
    /// One after the other.
    Plain,
}

impl Engine {
    /// The best way there is to `disk`.
    pub(super) fn of(disk: &Disk, room: u16) -> Self {
        if disk.is_in_memory() {
            // Nothing is waited for there, and the ring would only hand requests to threads of the kernel's.
            return Self::Plain;
        }
        Ring::new(&disk.file, room).map_or_else(
            |why| {
                tracing::info!(
                    "a disk's requests are done one after the other, for there is no io_uring: {why}"
                );
                Self::Plain
            },
            |ring| Self::Ring(Box::new(ring)),
        )
    }
}

/// Why a queue cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the guest's disk driver broke a queue: {0}")]
    Queue(#[from] QueueError),
    #[error("the host's io_uring takes no more requests: {0}")]
    Ring(io::Error),
}

/// What a queue has between drivers.
pub(super) struct Means {
    pub(super) engine: Engine,
    pub(super) limiter: Limiter,
    /// This queue's share of [`UNDER_WAY`].
    pub(super) most: usize,
}

impl Means {
    /// Whether `step` may be under way beside those that are.
    fn has_room(&self, step: &Step) -> bool {
        match (&self.engine, step) {
            (Engine::Ring(ring), Step::Host(op)) => {
                ring.bytes() == 0 || ring.bytes() + op.left() <= self.most
            }
            _ => true,
        }
    }
}

/// What the thread owns.
pub(super) struct Serving {
    pub(super) queue: Queue,
    pub(super) means: Means,
    pub(super) disk: Arc<Disk>,
    pub(super) features: Features,
    pub(super) ram: GuestRam,
    pub(super) needs_reset: Interrupt,
    /// A request that limits hold back, or that waits for those under way; none is taken from the queue before it.
    pub(super) held: Option<(Chain, Step)>,
    /// The driver or the host broke the rules: the queue is not touched any more.
    pub(super) broken: bool,
}

impl Work for Serving {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add_each(self.queue.kick(), KICK)?;
        if let Engine::Ring(ring) = &self.means.engine {
            events.add(&**ring, DONE)?;
        }
        self.means.limiter.register(events, TIMER)
    }

    fn ready(&mut self, token: u64, _events: &Events) -> ControlFlow<()> {
        if token == TIMER {
            self.means.limiter.rang();
        }
        match self.serve() {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                crate::warn_of_guest!("{why}");
                self.broken = true;
                self.needs_reset.raise();
                ControlFlow::Break(())
            }
        }
    }

    /// Waits until the host has done all that was taken from the queue, and completes it where that makes sense, so
    /// that the queue's progress tells the whole truth.
    fn over(&mut self) {
        let held = self.held.take().filter(|_| !self.broken);
        let ram = self.ram.memory();
        let begun = held.map_or(Ok(()), |(chain, step)| {
            // What waited for its turn is done without one, but not for nothing.
            self.means.limiter.pay(request::bytes(&step));
            self.begin(chain, step, &ram)
        });
        self.broken |= begun.is_err();
        while self.wait_for_one() {
            while let Some((op, chain, done)) = self.reap_one() {
                let settled = !self.broken && self.go_on_with(op, chain, done, &ram).is_ok();
                self.broken |= !settled;
            }
        }
    }
}

impl Serving {
    /// Serves what there is, at most as much as the queue is long; the rest has the queue kicked again.
    fn serve(&mut self) -> Result<(), Broken> {
        let ram = self.ram.memory();
        self.queue.busy(&ram)?;
        let mut moved = 0;
        for _ in 0..super::QUEUE_SIZE {
            if let Some(bytes) = self.begin_next(&ram)? {
                moved += bytes;
                if moved > TURN {
                    break;
                }
                continue;
            }
            self.submit()?;
            let was_full = self.is_full();
            if self.reap(&ram)? || (was_full && !self.is_full()) {
                continue;
            }
            // While a request is held back a kick would change nothing.
            if self.held.is_none() && self.queue.park(&ram)? {
                continue;
            }
            return Ok(self.queue.notify(&ram)?);
        }
        self.submit()?;
        self.reap(&ram)?;
        self.queue.kick_again();
        Ok(self.queue.notify(&ram)?)
    }

    /// Takes the next request and begins with it: how many bytes it moves. None: there is none, or it has to wait.
    fn begin_next(&mut self, ram: &Mapped) -> Result<Option<usize>, Broken> {
        let (chain, step) = match self.held.take() {
            Some(held) => held,
            None => match self.queue.next(ram)? {
                Some(mut chain) => {
                    let step = request::understand(&mut chain, ram, &self.disk, self.features)?;
                    (chain, step)
                }
                None => return Ok(None),
            },
        };
        let bytes = request::bytes(&step);
        if !self.means.has_room(&step) || !self.means.limiter.take(bytes) {
            self.held = Some((chain, step));
            return Ok(None);
        }
        self.begin(chain, step, ram)?;
        Ok(Some(bytes))
    }

    /// Whether the request that is held back waits for those under way.
    fn is_full(&self) -> bool {
        self.held.as_ref().is_some_and(|(_, step)| !self.means.has_room(step))
    }

    fn begin(&mut self, chain: Chain, step: Step, ram: &Mapped) -> Result<(), Broken> {
        match step {
            Step::Over(status) => self.complete(chain, ram, status),
            Step::Ranges(ranges) => {
                let done = ranges.iter().try_for_each(|range| self.alter(range));
                self.complete(chain, ram, status_of(done))
            }
            Step::Host(op) => self.ask(op, chain, ram),
        }
    }

    /// Has the host do `op`: by the ring, or here and now.
    fn ask(&mut self, mut op: Op, chain: Chain, ram: &Mapped) -> Result<(), Broken> {
        if let Engine::Ring(ring) = &mut self.means.engine {
            // There is room for as many requests as a queue has chains.
            return match ring.start(op, chain) {
                Ok(()) => Ok(()),
                Err((_, chain)) => self.complete(chain, ram, Status::IoError),
            };
        }
        let done = loop {
            let done = op.now(&self.disk.file);
            match self.go_on(&mut op, done) {
                ControlFlow::Break(status) => break status,
                ControlFlow::Continue(()) => {}
            }
        };
        self.complete(chain, ram, done)?;
        // The next one may take a while.
        Ok(self.queue.notify(ram)?)
    }

    /// What became of a step of `op`: its end, or that there is more to do.
    fn go_on(&self, op: &mut Op, done: io::Result<usize>) -> ControlFlow<Status> {
        let is_flush = matches!(op, Op::Flush);
        let done = match done {
            // A file system that cannot do it without waiting, on a descriptor that was inherited as one that never
            // waits: then it is done here.
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => op.now(&self.disk.file),
            done => done,
        };
        match done {
            Ok(0) if !is_flush && !op.advance(0) => {
                let why = io::Error::other("the image has become shorter than it was");
                ControlFlow::Break(status_of(Err(why)))
            }
            Ok(n) if op.advance(n) => ControlFlow::Break(Status::Ok),
            Ok(_) => ControlFlow::Continue(()),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => ControlFlow::Continue(()),
            Err(e) => ControlFlow::Break(status_of(Err(e))),
        }
    }

    fn submit(&mut self) -> Result<(), Broken> {
        match &mut self.means.engine {
            Engine::Ring(ring) => ring.submit().map_err(Broken::Ring),
            Engine::Plain => Ok(()),
        }
    }

    /// Completes what the ring has done; true if a request needs to be asked for again.
    fn reap(&mut self, ram: &Mapped) -> Result<bool, Broken> {
        let mut again = false;
        while let Some((op, chain, done)) = self.reap_one() {
            again |= self.go_on_with(op, chain, done, ram)?;
        }
        Ok(again)
    }

    /// Completes what is done, or asks for the rest of it: then true.
    fn go_on_with(
        &mut self,
        mut op: Op,
        chain: Chain,
        done: io::Result<usize>,
        ram: &Mapped,
    ) -> Result<bool, Broken> {
        match self.go_on(&mut op, done) {
            ControlFlow::Break(status) => self.complete(chain, ram, status).map(|()| false),
            ControlFlow::Continue(()) => self.ask(op, chain, ram).map(|()| true),
        }
    }

    /// Waits until the ring has done something; false: it has nothing to do, or does not tell any more.
    fn wait_for_one(&mut self) -> bool {
        match &mut self.means.engine {
            Engine::Ring(ring) => ring.in_flight() > 0 && ring.wait().is_ok(),
            Engine::Plain => false,
        }
    }

    fn reap_one(&mut self) -> Option<(Op, Chain, io::Result<usize>)> {
        match &mut self.means.engine {
            Engine::Ring(ring) => ring.reap(),
            Engine::Plain => None,
        }
    }

    fn alter(&self, range: &Range) -> io::Result<()> {
        match range.what {
            // The host refuses a range of nothing.
            _ if range.len == 0 => return Ok(()),
            Fate::Discard => self.disk.discard(range.offset, range.len)?,
            Fate::Zero { unmap } => self.disk.zero(range.offset, range.len, unmap)?,
        }
        // Without a flush of the driver's, what is done is done for good (5.2.6.2).
        if self.features.has(super::F_FLUSH) { Ok(()) } else { self.disk.file.sync_data() }
    }

    fn complete(&mut self, mut chain: Chain, ram: &Mapped, status: Status) -> Result<(), Broken> {
        request::finish(&mut chain, ram, status)?;
        Ok(self.queue.complete(ram, chain)?)
    }
}

/// The result of what the host did; an error is logged, for the driver learns no more than that it is one.
fn status_of(done: io::Result<()>) -> Status {
    match done {
        Ok(()) => Status::Ok,
        Err(why) => {
            crate::warn_of_guest!("the host did not do what a disk's driver asked for: {why}");
            Status::IoError
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::super::disk::Options;
    use super::*;
    use crate::addr::QueueIndex;
    use crate::rate::Rates;
    use crate::testing;
    use crate::virtio::{Progress, QueueGrant};

    const HEADER: u64 = 0x1000;
    const DATA: u64 = 0x8_0000;
    const LEN: u32 = 256 << 10;
    const RING: u64 = 0x1000_0000;

    /// A thread's work on a ring with `requests` reads of [`LEN`] bytes, of which `most` bytes may be under way.
    fn serving(disk: Disk, requests: usize, most: usize) -> Serving {
        let ram = testing::ram();
        // A header of zeros: a read of the first sectors.
        let mut ring = testing::Ring::new(&ram, super::super::QUEUE_SIZE, RING);
        for _ in 0..requests {
            ring.add(&[
                testing::Buffer { at: HEADER, len: 16, writable: false },
                testing::Buffer { at: DATA, len: LEN, writable: true },
                testing::Buffer { at: HEADER + 16, len: 1, writable: true },
            ]);
        }
        let grant = QueueGrant {
            index: QueueIndex(0),
            ring: ring.layout,
            kick: EventFd::new(EFD_NONBLOCK).expect("an eventfd"),
            call: Interrupt::none(),
            from: Progress::default(),
        };
        let features = Features(0);
        let queue = Queue::open(grant, &ram.memory(), features).expect("a queue");
        let engine = Ring::new(&disk.file, super::super::QUEUE_SIZE).expect("a kernel with io_uring");
        let limiter = Limiter::new(Rates::default()).expect("no limits");
        Serving {
            queue,
            means: Means { engine: Engine::Ring(Box::new(engine)), limiter, most },
            disk: Arc::new(disk),
            features,
            ram,
            needs_reset: Interrupt::none(),
            held: None,
            broken: false,
        }
    }

    fn disk() -> Disk {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(LEN.into()).expect("its size");
        Disk::open(image.path(), &Options::default()).expect("a disk")
    }

    #[test]
    fn what_is_under_way_is_bounded_and_what_waits_is_done_in_the_end() {
        let len = LEN as usize;
        let mut work = serving(disk(), 4, 2 * len);
        let ram = work.ram.memory();
        let taken = [(); 3].map(|()| work.begin_next(&ram).expect("a queue that is not broken"));
        assert_eq!(taken, [Some(len), Some(len), None]);
        assert!(work.is_full());
        while work.queue.progress().next_used < 4 {
            work.wait_for_one();
            work.serve().expect("a queue that is not broken");
        }
        assert!(work.held.is_none() && !work.is_full());
    }

    #[test]
    fn a_request_that_is_larger_than_the_bound_is_done_alone() {
        let len = LEN as usize;
        let mut work = serving(disk(), 2, len / 2);
        let ram = work.ram.memory();
        let taken = [(); 2].map(|()| work.begin_next(&ram).expect("a queue that is not broken"));
        assert_eq!(taken, [Some(len), None]);
        work.over();
        assert_eq!(work.queue.progress(), Progress { next_avail: 2, next_used: 2 });
    }
}
