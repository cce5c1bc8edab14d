//! A device's thread.
//!
//! 1. [`Worker::spawn`] moves the work (queues, backends) into a thread that waits for its events.
//! 2. Each event that is ready is served by [`Work::ready`], one at a time, with nothing shared and no lock.
//! 3. [`Worker::stop`] gives the work back; afterwards no thread touches what it owns.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Smaller than a huge page, or the host would back the stack by one.
const STACK: usize = 128 << 10;
/// Events taken from the kernel at once.
const BATCH: usize = 8;
/// The token that ends the thread.
const STOP: u64 = u64::MAX;

/// What the thread waits for: descriptors that become readable, each with a token.
#[derive(Debug)]
pub struct Events(Epoll);

impl Events {
    /// Has [`Work::ready`] called with `token` while `fd` is readable.
    ///
    /// # Errors
    /// The host refused, or `fd` cannot be waited for.
    pub fn add(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(EventSet::IN, token))
    }

    /// Waits for `fd` no more.
    ///
    /// # Errors
    /// It was not waited for.
    pub fn remove(&self, fd: &impl AsRawFd) -> io::Result<()> {
        self.0.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default())
    }
}

/// What a device does when something is ready.
pub trait Work: Send + 'static {
    /// Registers what there is to wait for; called once, before the thread starts.
    ///
    /// # Errors
    /// See [`Events::add`].
    fn register(&mut self, events: &Events) -> io::Result<()>;

    /// Serves the event registered as `token`. `Break`: there is nothing more to be done until the device is reset.
    fn ready(&mut self, token: u64, events: &Events) -> ControlFlow<()>;
}

/// A running thread and the work it has.
#[derive(Debug)]
pub struct Worker<W> {
    thread: JoinHandle<W>,
    stop: EventFd,
}

impl<W: Work> Worker<W> {
    /// Starts a thread called `name`, of at most 15 bytes, that does `work`.
    ///
    /// # Errors
    /// The host refused a thread or an eventfd.
    pub fn spawn(name: &str, mut work: W) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let events = Events(Epoll::new()?);
        events.add(&stop, STOP)?;
        work.register(&events)?;
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            run(&mut work, &events);
            work
        })?;
        Ok(Self { thread, stop })
    }

    /// Ends the thread and gives the work back; `None` only if the thread has panicked.
    pub fn stop(self) -> Option<W> {
        // EAGAIN is impossible: the counter is written once.
        let _ = self.stop.write(1);
        self.thread.join().ok()
    }
}

fn run(work: &mut impl Work, events: &Events) {
    let mut ready = [EpollEvent::default(); BATCH];
    loop {
        let n = match events.0.wait(-1, &mut ready) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            // An epoll descriptor of our own fails only when it is none any more.
            Err(_) => return,
        };
        let ready = ready.get(..n).unwrap_or_default();
        if ready.iter().any(|event| event.data() == STOP) {
            return;
        }
        for event in ready {
            if work.ready(event.data(), events).is_break() {
                return;
            }
        }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(EventFd, u64, u64);
    impl Work for Count {
        fn register(&mut self, events: &Events) -> io::Result<()> {
            events.add(&self.0, 7)
        }
        fn ready(&mut self, token: u64, _: &Events) -> ControlFlow<()> {
            assert_eq!(token, 7);
            self.1 += self.0.read().expect("signalled");
            if self.1 >= self.2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }

    fn count(until: u64) -> (EventFd, Worker<Count>) {
        let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let work = Count(event.try_clone().expect("a clone"), 0, until);
        (event, Worker::spawn("count", work).expect("a thread"))
    }

    #[test]
    fn a_worker_that_is_stopped_gives_its_work_back() {
        let (event, worker) = count(u64::MAX);
        event.write(3).expect("written");
        let work = worker.stop().expect("the work");
        // It may have been stopped before it saw the event; then the event is still there.
        assert_eq!(work.1 + event.read().unwrap_or(0), 3);
    }

    #[test]
    fn work_that_is_over_ends_the_thread_and_can_still_be_had() {
        let (event, worker) = count(1);
        event.write(1).expect("written");
        while !worker.thread.is_finished() {
            thread::yield_now();
        }
        assert_eq!(worker.stop().expect("the work").1, 1);
    }
}
