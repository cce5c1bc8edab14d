//! An end to waiting for another process's answer.
//!
//! 1. [`Deadline::new`] starts a thread that waits.
//! 2. [`Deadline::within`] begins a conversation over a socket. One that is not over in time finds its socket shut: every
//!    read of it then ends.
//! 3. Dropping the [`Conversation`] ends it.
//!
//! Why a thread and not a socket's own timeout: the `vhost` crate takes a read that timed out for one to be tried again,
//! without end. And a peer that sends a byte now and then would never run into a timeout of single reads.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::confine::{Call, Confinement};

/// Little more than a loop.
const STACK: usize = 64 << 10;

/// What the thread asks of the kernel beside what every thread does.
const CALLS: [Call; 1] = [Call::Any(libc::SYS_shutdown)];

/// The thread that looks at the clock.
#[derive(Debug)]
pub struct Deadline {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<Option<()>>>,
}

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Option<(Instant, Arc<UnixStream>)>,
    expired: bool,
    closed: bool,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            state = match &state.waiting {
                Some((end, socket)) if *end <= now => {
                    // Shut already, by the peer, is as good.
                    let _ = socket.shutdown(Shutdown::Both);
                    (state.waiting, state.expired) = (None, true);
                    state
                }
                Some((end, _)) => {
                    let left = *end - now;
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl Deadline {
    /// Starts the thread, called `name`.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub fn new(name: &str, confinement: &Confinement) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let theirs = desk.clone();
        let thread = Builder::new().name(name.to_owned()).stack_size(STACK);
        let thread = confinement.spawn(thread, &CALLS, move || theirs.watch())?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Begins a conversation over `socket` that must be over within `limit`. One at a time.
    pub fn within(&self, limit: Duration, socket: &Arc<UnixStream>) -> Conversation {
        let mut state = self.desk.lock();
        (state.waiting, state.expired) = (Some((Instant::now() + limit, socket.clone())), false);
        drop(state);
        self.desk.changed.notify_all();
        Conversation(self.desk.clone())
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the hook already.
            let _ = thread.join();
        }
    }
}

/// A conversation under way.
#[derive(Debug)]
#[must_use = "a conversation lasts as long as this"]
pub struct Conversation(Arc<Desk>);

impl Conversation {
    /// Whether its time was up before it ended.
    pub fn expired(&self) -> bool {
        self.0.lock().expired
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.0.lock().waiting = None;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pair() -> (Arc<UnixStream>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        (Arc::new(ours), theirs)
    }

    #[test]
    fn a_peer_that_says_nothing_or_little_is_not_waited_for_longer() {
        let deadline = Deadline::new("clock", &Confinement::none()).expect("a thread");
        for bytes in [0, 3] {
            let (ours, mut theirs) = pair();
            std::io::Write::write_all(&mut theirs, &vec![1; bytes]).expect("sent");
            let conversation = deadline.within(Duration::from_millis(50), &ours);
            let begun = Instant::now();
            let got = (&*ours).read_exact(&mut [0; 12]);
            assert!(got.is_err() && conversation.expired());
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
    }

    #[test]
    fn a_conversation_that_is_over_leaves_its_socket_alone() {
        let deadline = Deadline::new("clock", &Confinement::none()).expect("a thread");
        let (ours, mut theirs) = pair();
        let conversation = deadline.within(Duration::from_secs(60), &ours);
        assert!(!conversation.expired());
        drop(conversation);
        assert!(deadline.desk.lock().waiting.is_none(), "nothing that could be shut");
        // The next one's end, which the thread does look at, is not this one's.
        let (next, _silent) = pair();
        let conversation = deadline.within(Duration::from_millis(20), &next);
        assert_eq!((&*next).read(&mut [0]).expect("an end"), 0);
        assert!(conversation.expired());
        std::io::Write::write_all(&mut theirs, b"later").expect("it is open");
        let mut got = [0; 5];
        (&*ours).read_exact(&mut got).expect("it is open");
        assert_eq!(&got, b"later");
    }
}
