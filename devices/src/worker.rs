//! A device's thread.
//!
//! 1. [`Worker::new`] starts the thread, confined to what its work needs, while the machine is built. It waits.
//! 2. [`Worker::start`] hands it the work (queues, backends); it waits for the work's events.
//! 3. Each event that is ready is served by [`Work::ready`], one at a time, with nothing shared and no lock.
//! 4. [`Worker::stop`] gives the work back; afterwards no thread touches what it owns. Then again from 2.
//! 5. Dropping the worker ends the thread.
//!
//! The thread is not started with the work because that happens on a vCPU's thread, which may start none.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::confine::{Call, Confinement};

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

    /// Has [`Work::ready`] called with `token` each time `fd` becomes readable or is signalled again; it need not be
    /// read. For one that another process has a hand on, and a read of which might wait for ever.
    ///
    /// # Errors
    /// See [`Events::add`].
    pub fn add_each(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        let each = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(each, token))
    }

    /// Has [`Work::ready`] called with `token` while `fd` can be written to.
    ///
    /// # Errors
    /// See [`Events::add`].
    pub fn add_writable(&self, fd: &impl AsRawFd, token: u64) -> io::Result<()> {
        self.0.ctl(ControlOperation::Add, fd.as_raw_fd(), EpollEvent::new(EventSet::OUT, token))
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

    /// The work is over, whatever ended it: called once after [`Work::register`] went well, on the thread, before the
    /// work is given back. For what only this thread may do.
    fn over(&mut self) {}
}

/// What every worker asks of the kernel: to wait for events, and to read those that are counters.
const CALLS: [Call; 4] = [
    Call::Any(libc::SYS_epoll_wait),
    Call::Any(libc::SYS_epoll_ctl),
    Call::Any(libc::SYS_epoll_create1),
    Call::Any(libc::SYS_read),
];

/// A device's thread, and a desk over which work is handed to and fro.
#[derive(Debug)]
pub struct Worker<W> {
    desk: Arc<Desk<W>>,
    stop: EventFd,
    thread: Option<JoinHandle<Option<()>>>,
}

#[derive(Debug)]
struct Desk<W> {
    state: Mutex<State<W>>,
    changed: Condvar,
}

#[derive(Debug)]
enum State<W> {
    /// The thread waits for work.
    Idle,
    /// Work is handed over.
    Given(W),
    /// The work's events could not be waited for.
    Refused(W, io::Error),
    /// The thread has the work.
    Working,
    /// The work is over, stopped or by itself.
    Over(W),
    /// The thread ends, or has ended.
    Closed,
}

impl<W> Desk<W> {
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, state: State<W>) {
        *self.lock() = state;
        self.changed.notify_all();
    }

    /// Waits while the desk is as `while_so` says.
    fn wait(&self, while_so: impl Fn(&State<W>) -> bool) -> MutexGuard<'_, State<W>> {
        let lock = self.changed.wait_while(self.lock(), |state| while_so(state));
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the desk when its thread ends, even by a panic: nobody shall wait for it.
struct AtEnd<W>(Arc<Desk<W>>);

impl<W> Drop for AtEnd<W> {
    fn drop(&mut self) {
        self.0.put(State::Closed);
    }
}

impl<W: Work> Worker<W> {
    /// Starts a thread called `name`, of at most 15 bytes, that may use `calls` beside what every worker needs.
    ///
    /// # Errors
    /// The host refused a thread, its confinement, or an eventfd.
    pub fn new(name: &str, calls: &[Call], confinement: &Confinement) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let desk = Arc::new(Desk { state: Mutex::new(State::Idle), changed: Condvar::new() });
        let (at_end, theirs) = (AtEnd(desk.clone()), stop.try_clone()?);
        let calls: Vec<Call> = calls.iter().chain(&CALLS).copied().collect();
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        let thread = confinement.spawn(thread, &calls, move || serve(&at_end.0, &theirs))?;
        Ok(Self { desk, stop, thread: Some(thread) })
    }

    /// Has the thread do `work`.
    ///
    /// # Errors
    /// The work comes back with the reason: its events cannot be waited for, or the thread has other work.
    pub fn start(&self, work: W) -> Result<(), (W, io::Error)> {
        let mut state = self.desk.lock();
        if !matches!(*state, State::Idle) {
            return Err((work, io::ErrorKind::ResourceBusy.into()));
        }
        *state = State::Given(work);
        drop(state);
        self.desk.changed.notify_all();
        let mut state = self.desk.wait(|state| matches!(state, State::Given(_)));
        match std::mem::replace(&mut *state, State::Idle) {
            State::Refused(work, why) => Err((work, why)),
            other => {
                *state = other;
                Ok(())
            }
        }
    }

    /// Ends the work and gives it back; `None` if there was none.
    pub fn stop(&self) -> Option<W> {
        if matches!(*self.desk.lock(), State::Idle | State::Closed) {
            return None;
        }
        // EAGAIN is impossible: nobody writes so often.
        let _ = self.stop.write(1);
        self.taken(self.desk.wait(is_at_work))
    }

    /// As [`Worker::stop`], for work that may wait for what is not ours: for `limit` at the longest. The work ends all the
    /// same, when it can, and is given back by a later stop.
    ///
    /// # Errors
    /// It goes on. Dropping the worker would wait for it: see [`Worker::abandon`].
    pub fn stop_within(&self, limit: Duration) -> Result<Option<W>, HeldUp> {
        if matches!(*self.desk.lock(), State::Idle | State::Closed) {
            return Ok(None);
        }
        let _ = self.stop.write(1);
        let waited = self.desk.changed.wait_timeout_while(self.desk.lock(), limit, |state| is_at_work(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if is_at_work(&state) { Err(HeldUp) } else { Ok(self.taken(state)) }
    }

    /// Waits for the thread no more, also when this is dropped: it ends when it can, and keeps its work.
    pub fn abandon(&mut self) {
        self.thread = None;
    }

    /// The work, which is over.
    fn taken(&self, mut state: MutexGuard<'_, State<W>>) -> Option<W> {
        let _ = self.stop.read();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Over(work) => Some(work),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// Work that does not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its thread waits for something that does not come")]
pub struct HeldUp;

fn is_at_work<W>(state: &State<W>) -> bool {
    matches!(state, State::Working | State::Given(_))
}

impl<W> Drop for Worker<W> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let _ = self.stop.write(1);
        drop(self.desk.wait(is_at_work));
        self.desk.put(State::Closed);
        // A panic has been reported by the hook already.
        let _ = thread.join();
    }
}

fn serve<W: Work>(desk: &Desk<W>, stop: &EventFd) {
    loop {
        let mut state = desk.wait(|state| !matches!(state, State::Given(_) | State::Closed));
        let State::Given(mut work) = std::mem::replace(&mut *state, State::Closed) else { return };
        // Under the lock: whoever handed the work over waits for this.
        let events = match events(&mut work, stop) {
            Ok(events) => events,
            Err(why) => {
                *state = State::Refused(work, why);
                desk.changed.notify_all();
                continue;
            }
        };
        *state = State::Working;
        drop(state);
        desk.changed.notify_all();
        run(&mut work, &events);
        work.over();
        desk.put(State::Over(work));
    }
}

fn events(work: &mut impl Work, stop: &EventFd) -> io::Result<Events> {
    let events = Events(Epoll::new()?);
    events.add(stop, STOP)?;
    work.register(&events)?;
    Ok(events)
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

    fn worker() -> (EventFd, Worker<Count>) {
        let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        (event, Worker::new("count", &[], &Confinement::none()).expect("a thread"))
    }

    fn count(event: &EventFd, until: u64) -> Count {
        Count(event.try_clone().expect("a clone"), 0, until)
    }

    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Work that says when it is held up, until it is told to go on.
    struct Held(EventFd, Sender<()>, Receiver<()>);
    impl Work for Held {
        fn register(&mut self, events: &Events) -> io::Result<()> {
            events.add(&self.0, 0)
        }
        fn ready(&mut self, _: u64, _: &Events) -> ControlFlow<()> {
            self.0.read().expect("signalled");
            self.1.send(()).expect("heard");
            self.2.recv().expect("told");
            ControlFlow::Continue(())
        }
    }

    #[test]
    fn work_that_is_held_up_is_not_waited_for_longer_and_given_back_later() {
        let event = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let worker = Worker::new("held", &[], &Confinement::none()).expect("a thread");
        assert!(worker.stop_within(Duration::ZERO).expect("at rest").is_none());
        let ((says, is_held), (go_on, told)) = (channel(), channel());
        event.write(1).expect("written");
        let work = Held(event.try_clone().expect("a clone"), says, told);
        worker.start(work).map_err(|(_, e)| e).expect("started");
        is_held.recv().expect("it says so");
        assert_eq!(worker.stop_within(Duration::from_millis(20)).err(), Some(HeldUp));
        go_on.send(()).expect("heard");
        assert!(worker.stop().is_some());
        assert!(worker.stop_within(Duration::ZERO).expect("at rest").is_none());
    }

    #[test]
    fn a_worker_that_is_stopped_gives_its_work_back_and_takes_more() {
        let (event, worker) = worker();
        assert!(worker.stop().is_none(), "it had none");
        for _ in 0..100 {
            worker.start(count(&event, u64::MAX)).map_err(|(_, e)| e).expect("started");
            event.write(3).expect("written");
            let work = worker.stop().expect("the work");
            // It may have been stopped before it saw the event; then the event is still there.
            assert_eq!(work.1 + event.read().unwrap_or(0), 3);
        }
    }

    #[test]
    fn work_that_is_over_can_still_be_had_and_is_in_the_way_until_then() {
        let (event, worker) = worker();
        worker.start(count(&event, 1)).map_err(|(_, e)| e).expect("started");
        event.write(1).expect("written");
        crate::testing::until("the work is over", || matches!(*worker.desk.lock(), State::Over(_)));
        assert!(worker.start(count(&event, 1)).is_err());
        assert_eq!(worker.stop().expect("the work").1, 1);
        assert!(worker.stop().is_none());
    }

    #[test]
    fn work_whose_events_cannot_be_waited_for_comes_back_with_the_reason() {
        struct Bad;
        impl Work for Bad {
            fn register(&mut self, _: &Events) -> io::Result<()> {
                Err(io::Error::other("no such thing"))
            }
            fn ready(&mut self, _: u64, _: &Events) -> ControlFlow<()> {
                ControlFlow::Break(())
            }
        }
        let worker = Worker::new("bad", &[], &Confinement::none()).expect("a thread");
        for _ in 0..2 {
            let (_, why) = worker.start(Bad).expect_err("refused");
            assert_eq!(why.to_string(), "no such thing");
        }
    }

    #[test]
    fn a_worker_at_work_ends_when_it_is_dropped() {
        let (event, worker) = worker();
        worker.start(count(&event, u64::MAX)).map_err(|(_, e)| e).expect("started");
        drop(worker);
    }
}
