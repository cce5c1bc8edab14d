//! This process's terminal, raw while a guest has it, and given back on every way out.
//!
//! 1. [`Raw::enter`] remembers the mode and switches it.
//! 2. Dropping the guard gives it back; so does [`restore`], from a panic hook or a signal handler, once.

mod sys;

use std::io;
use std::sync::{Mutex, PoisonError};

use devices::virtio::console::Size;
use nix::sys::termios::{self, SetArg, Termios};

static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps the terminal raw until dropped.
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Puts the terminal behind standard input in raw mode; `None` when there is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let stdin = io::stdin();
        let original = termios::tcgetattr(&stdin).ok()?;
        let mut raw = original.clone();
        termios::cfmakeraw(&mut raw);
        *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).ok()?;
        Some(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Columns and rows of the terminal behind standard output; `None` when there is none.
pub(crate) fn size() -> Option<Size> {
    sys::size().filter(|size| size.columns > 0 && size.rows > 0)
}

/// Gives the terminal back as it was found; does nothing when it was never taken, or given back already.
pub fn restore() {
    // try_lock: a panic inside this module must not wait for itself.
    if let Ok(mut original) = ORIGINAL.try_lock()
        && let Some(mode) = original.take()
    {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &mode);
    }
}
