//! The thread that carries a console's bytes.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::patience::{PATIENCE, Reader};
use super::target::{Listener, Target};
use super::{Escape, IN_ROOM, Shared};
use crate::confine::{Call, Confinement};

/// A pipe that polls as writable takes this much without blocking (PIPE_BUF).
const CHUNK: usize = 4096;
/// How long the last bytes may take to leave, to a reader that takes them.
const LINGER: Duration = Duration::from_secs(10);
/// Smaller than a huge page, or the host would back the stack by one.
const STACK: usize = 128 << 10;

/// What the thread asks of the kernel. Input goes on to the device on this thread, and the way out of a raw terminal
/// ends the machine: both signal eventfds, which is a write.
pub const CALLS: &[Call] = &[
    Call::Any(libc::SYS_poll),
    Call::Any(libc::SYS_read),
    Call::Any(libc::SYS_accept4),
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_sendto),
    #[allow(clippy::cast_possible_truncation)] // the kernel reads 32 bits of a request
    Call::Only(libc::SYS_ioctl, 1, &[libc::FIONBIO as u32]),
    // A socket's path is removed if it is still ours.
    Call::Any(libc::SYS_statx),
    Call::Any(libc::SYS_unlink),
];

/// A running chardev. Dropping it carries over what is left, says what nobody took, and ends the thread.
pub struct Pump {
    name: String,
    shared: Arc<Shared>,
    done: Arc<(Mutex<bool>, Condvar)>,
}

impl Pump {
    pub(super) fn spawn(
        name: &str,
        shared: Arc<Shared>,
        mut link: Link,
        confinement: &Confinement,
    ) -> io::Result<Self> {
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        let (theirs, finished) = (shared.clone(), done.clone());
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
        confinement.spawn(thread, CALLS, move || {
            while link.turn(&theirs) {}
            // The socket's path goes before the drop returns.
            drop(link);
            *finished.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
            finished.1.notify_all();
        })?;
        Ok(Self { name: name.to_owned(), shared, done })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.wake();
        let until = Instant::now() + LINGER;
        let mut left = usize::MAX;
        let (mut done, mut now) = (self.lock_done(), self.shared.lock().out.len());
        // A reader that has stalled keeps its thread, not us.
        while !*done && now < left && Instant::now() < until {
            left = now;
            let waited = self.done.1.wait_timeout_while(done, PATIENCE, |done| !*done);
            done = waited.unwrap_or_else(PoisonError::into_inner).0;
            now = self.shared.lock().out.len();
        }
        let state = self.shared.lock();
        let lost = state.out.dropped() + state.out.len() as u64;
        if state.reader != Reader::Optional && lost > 0 {
            tracing::warn!("{}: {lost} bytes of output are lost: they were not taken in time", self.name);
        }
    }
}

impl Pump {
    fn lock_done(&self) -> MutexGuard<'_, bool> {
        self.done.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files at the other end.
pub(super) struct Link {
    out: Option<OwnedFd>,
    input: Option<OwnedFd>,
    client: Option<UnixStream>,
    listener: Option<Listener>,
    escape: Option<Escape>,
    _slave: Option<std::fs::File>,
}

impl Link {
    pub(super) fn new(target: Target, escape: Option<Escape>) -> Self {
        let mut link = Self { out: None, input: None, client: None, listener: None, escape, _slave: None };
        match target {
            Target::Null => {}
            Target::Stream { out, input } => (link.out, link.input) = (Some(out), input),
            Target::Pty { master, slave, .. } => {
                link.input = master.try_clone().ok();
                link.out = Some(master);
                link._slave = Some(slave);
            }
            Target::Socket(listener) => link.listener = Some(listener),
        }
        link
    }

    fn out_fd(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd).or(self.out.as_ref().map(AsFd::as_fd))
    }

    fn in_fd(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(AsFd::as_fd).or(self.input.as_ref().map(AsFd::as_fd))
    }

    /// Waits for something to carry and carries it; false when the thread shall end.
    fn turn(&mut self, shared: &Shared) -> bool {
        let (pending, room, closing) = {
            let state = shared.lock();
            (!state.out.is_empty(), state.input.len() < IN_ROOM, state.closing)
        };
        if closing && (!pending || self.out_fd().is_none()) {
            return false;
        }
        let [woken, listening, writable, readable] = self.wait(shared, pending, room && !closing);
        if woken {
            let _ = shared.wake.read();
        }
        if listening {
            self.accept();
        }
        if writable {
            self.carry_out(shared);
        }
        if readable {
            self.carry_in(shared);
        }
        true
    }

    fn wait(&self, shared: &Shared, pending: bool, room: bool) -> [bool; 4] {
        let listener = self.listener.as_ref().filter(|_| self.client.is_none());
        let parts = [
            Some((shared.wake.as_fd(), PollFlags::POLLIN)),
            listener.map(|l| (l.socket.as_fd(), PollFlags::POLLIN)),
            self.out_fd().filter(|_| pending).map(|fd| (fd, PollFlags::POLLOUT)),
            self.in_fd().filter(|_| room).map(|fd| (fd, PollFlags::POLLIN)),
        ];
        let mut fds: Vec<_> = parts.iter().flatten().map(|(fd, events)| PollFd::new(*fd, *events)).collect();
        // A failure (a signal, no memory) comes round again as nothing ready.
        let _ = poll(&mut fds, PollTimeout::NONE);
        let mut ready = fds.iter().map(|p| p.any().unwrap_or(false));
        parts.map(|part| part.is_some() && ready.next().unwrap_or(false))
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        if let Ok((client, _)) = listener.socket.accept()
            && client.set_nonblocking(true).is_ok()
        {
            self.client = Some(client);
        }
    }

    fn carry_out(&mut self, shared: &Shared) {
        let (chunk, dropped) = {
            let state = shared.lock();
            (state.out.peek(CHUNK), state.out.dropped())
        };
        match self.write(&chunk) {
            Ok(n) => {
                // Bytes the ring has dropped meanwhile were the oldest: among those just written.
                let mut state = shared.lock();
                let gone = usize::try_from(state.out.dropped() - dropped).unwrap_or(usize::MAX);
                state.out.consume(n.saturating_sub(gone));
                drop(state);
                if n > 0 {
                    shared.taken();
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.hang_up(shared),
        }
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        match (&mut self.client, &self.out) {
            (Some(client), _) => client.write(chunk),
            (None, Some(out)) => nix::unistd::write(out, chunk).map_err(io::Error::from),
            (None, None) => Ok(0),
        }
    }

    fn carry_in(&mut self, shared: &Shared) {
        let mut buf = [0; 1024];
        let room = IN_ROOM.saturating_sub(shared.lock().input.len()).min(buf.len());
        let buf = buf.get_mut(..room).unwrap_or_default();
        let got = match (&mut self.client, &self.input) {
            (Some(client), _) => client.read(buf),
            (None, Some(input)) => nix::unistd::read(input, buf).map_err(io::Error::from),
            (None, None) => return,
        };
        match got {
            Ok(n) if n > 0 => {
                let got = buf.get(..n).unwrap_or_default();
                match &mut self.escape {
                    Some(escape) => shared.lock().input.extend(escape.filter(got)),
                    None => shared.lock().input.extend(got),
                }
                if let Some(notify) = &*shared.notify.lock().unwrap_or_else(PoisonError::into_inner) {
                    notify();
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // End of input is no end of the machine.
            _ if self.client.is_some() => self.client = None,
            _ => self.input = None,
        }
    }

    /// The reader has gone: wait for the next one, or drop what comes from now on.
    fn hang_up(&mut self, shared: &Shared) {
        if self.client.take().is_none() {
            self.out = None;
            let mut state = shared.lock();
            state.discard = true;
            state.out.consume(usize::MAX);
            drop(state);
            shared.taken();
        }
    }
}
