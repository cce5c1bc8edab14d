//! Where a console's bytes go to and come from: file, stdio, pseudo-terminal, socket, or nowhere.
//!
//! A guest's write never waits for a reader that does not read: bytes go into a bounded ring, a thread of the chardev's
//! own carries them on, and when nobody takes them the oldest are dropped and counted. Devices that can wait do so for a
//! reader that is only slow ([`Patience`]). Input is bounded likewise, from the other side: the thread reads no more than
//! the device has taken.
//!
//! 1. [`Chardev::new`] makes the files, sockets and terminals; nothing flows yet.
//! 2. The device takes [`Chardev::output`] and [`Chardev::input`] with it.
//! 3. [`Chardev::start`] starts the thread, confined to [`CALLS`].
//! 4. Dropping the [`Pump`] carries over what is left, for as long as a reader takes it and ten seconds at most, and
//!    removes what was made.

mod escape;
mod patience;
mod pump;
mod ring;
mod target;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::confine::Confinement;
use escape::Escape;
pub use patience::Patience;
use patience::Reader;
pub use pump::{CALLS, Pump};
use ring::Ring;
pub use target::Target;

/// A device's way out. Never blocks, never fails loudly.
pub trait Output: Send {
    /// Takes all of `bytes`; what cannot be kept is dropped and counted.
    fn write(&mut self, bytes: &[u8]);
}

/// Bytes kept for a reader that is slow or not there yet.
const OUT_ROOM: usize = 64 << 10;
/// Bytes read ahead of the device.
const IN_ROOM: usize = 4 << 10;
/// Bytes of output remembered for a report about a boot that went wrong.
const TAIL: usize = 16 << 10;

/// Why a chardev could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChardevError {
    /// The host refused.
    #[error("{what} {path} cannot be opened: {source}")]
    Open {
        /// File, socket or terminal.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// Somebody listens there already.
    #[error("socket {0} is in use by another process; give each machine a path of its own")]
    InUse(PathBuf),
    /// An eventfd, a thread.
    #[error("the host refused what a console needs: {0}")]
    Host(#[from] io::Error),
}

type Notify = Box<dyn Fn() + Send + Sync>;
type Once = Box<dyn FnOnce() + Send>;

/// What the device, the thread and a report share.
struct Shared {
    state: Mutex<State>,
    /// Tells the thread to look at `state` again.
    wake: EventFd,
    /// Tells the device that input has come.
    notify: Mutex<Option<Notify>>,
    /// Tells the device that there is room again.
    room: EventFd,
}

struct State {
    out: Ring,
    input: VecDeque<u8>,
    tail: Ring,
    /// Waits for the first byte.
    first_output: Option<Once>,
    reader: Reader,
    /// Nothing is behind the output end: bytes are dropped without being counted.
    discard: bool,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the counter is full: then the thread has been told often enough.
        let _ = self.wake.write(1);
    }
}

/// A console's backend before and while it runs.
pub struct Chardev {
    shared: Arc<Shared>,
    target: Target,
    escape: Option<Escape>,
}

impl Chardev {
    /// A backend for `target`, with everything it needs open.
    pub fn new(target: Target) -> Result<Self, ChardevError> {
        let event = || EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let [wake, room] = [event().map_err(io::Error::from)?, event().map_err(io::Error::from)?];
        let state = State {
            out: Ring::new(OUT_ROOM),
            input: VecDeque::new(),
            tail: Ring::new(TAIL),
            first_output: None,
            // A terminal, a pipe, a file were given for somebody to read.
            reader: if matches!(target, Target::Stream { .. }) { Reader::Takes } else { Reader::Optional },
            discard: matches!(target, Target::Null),
            closing: false,
        };
        Ok(Self {
            shared: Arc::new(Shared { state: Mutex::new(state), wake, notify: Mutex::new(None), room }),
            target,
            escape: None,
        })
    }

    /// The device's way out.
    pub fn output(&self) -> Box<dyn Output> {
        Box::new(OutputEnd(self.shared.clone()))
    }

    /// The device's way in.
    pub fn input(&self) -> InputEnd {
        InputEnd(self.shared.clone())
    }

    /// For a device that can wait for a slow reader.
    ///
    /// # Errors
    /// The host has no timer to give.
    pub fn patience(&self) -> io::Result<Patience> {
        Patience::new(self.shared.clone())
    }

    /// A reader of the last output, for a report.
    pub fn tail(&self) -> Tail {
        Tail(self.shared.clone())
    }

    /// Has `call` called once, on the device's thread, when the guest writes its first byte.
    pub fn on_first_output(&self, call: impl FnOnce() + Send + 'static) {
        self.shared.lock().first_output = Some(Box::new(call));
    }

    /// Where a pseudo-terminal can be found.
    pub fn pty(&self) -> Option<&std::path::Path> {
        match &self.target {
            Target::Pty { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Has `escape` called when the user types Ctrl-A x, and Ctrl-A typed twice reach the guest once: the way out
    /// of a raw terminal, whose every other key is the guest's.
    pub fn on_escape(&mut self, escape: impl Fn() + Send + 'static) {
        self.escape = Some(Escape::new(Box::new(escape)));
    }

    /// Starts carrying bytes, in a thread called `name`. Nothing to carry for [`Target::Null`].
    pub fn start(self, name: &str, confinement: &Confinement) -> Result<Option<Pump>, ChardevError> {
        match self.target {
            Target::Null => Ok(None),
            target => {
                let link = pump::Link::new(target, self.escape);
                Ok(Some(Pump::spawn(name, self.shared, link, confinement)?))
            }
        }
    }
}

struct OutputEnd(Arc<Shared>);

impl Output for OutputEnd {
    fn write(&mut self, bytes: &[u8]) {
        let mut state = self.0.lock();
        state.tail.push(bytes);
        let first = state.first_output.take();
        let idle = !state.discard && state.out.is_empty();
        if !state.discard {
            state.out.push(bytes);
        }
        drop(state);
        if let Some(call) = first {
            call();
        }
        // A thread that has bytes to carry looks for more by itself.
        if idle {
            self.0.wake();
        }
    }
}

/// A device's way in.
#[derive(Clone)]
pub struct InputEnd(Arc<Shared>);

impl InputEnd {
    /// Moves waiting input into `buf`; returns how much.
    pub fn take(&self, buf: &mut [u8]) -> usize {
        let mut state = self.0.lock();
        let full = state.input.len() >= IN_ROOM;
        let n = buf.len().min(state.input.len());
        buf.iter_mut().zip(state.input.drain(..n)).for_each(|(b, byte)| *b = byte);
        drop(state);
        if full && n > 0 {
            self.0.wake();
        }
        n
    }

    /// Whether input waits.
    pub fn is_ready(&self) -> bool {
        !self.0.lock().input.is_empty()
    }

    /// Has `notify` called, from the chardev's thread, whenever input has come.
    pub fn on_input(&self, notify: impl Fn() + Send + Sync + 'static) {
        *self.0.notify.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(notify));
    }
}

/// The last output of a console.
#[derive(Clone)]
pub struct Tail(Arc<Shared>);

impl Tail {
    /// The last 16 KiB, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().tail.to_vec()).into_owned()
    }

    /// All bytes the guest has written so far.
    pub fn written(&self) -> u64 {
        self.0.lock().tail.total()
    }

    /// Bytes that no reader has taken yet.
    pub fn waiting(&self) -> usize {
        self.0.lock().out.len()
    }

    /// Bytes that no reader took in time.
    pub fn dropped(&self) -> u64 {
        self.0.lock().out.dropped()
    }
}

impl fmt::Debug for Chardev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chardev").field("target", &self.target).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
