//! Waiting for a reader that is slow, by devices that can: those whose driver's buffers lie in a queue.
//!
//! A command's output that goes to a pipe or a terminal shall arrive whole, though the guest makes it faster than it is
//! taken. So the device takes nothing more from its queue while the ring is half full; it is told when there is room
//! again. A reader that has taken nothing for a second is waited for no more, until it takes something.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use super::{OUT_ROOM, Shared};
use crate::worker::Events;

/// A ring that holds as much is waited for.
const HIGH: usize = OUT_ROOM / 2;
/// One that holds as little has room.
const LOW: usize = OUT_ROOM / 4;
/// How long a reader may take nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// It may never come, and is not waited for.
    Optional,
    /// It takes what it is given.
    Takes,
    /// A device waits for it, and it has taken something since the timer was set, or not.
    Awaited { took: bool },
    /// It was waited for long enough.
    Stalled,
}

impl Shared {
    /// The reader has taken bytes; tells a device that waits when there is room.
    pub(super) fn taken(&self) {
        let mut state = self.lock();
        match state.reader {
            Reader::Awaited { .. } if state.out.len() > LOW => state.reader = Reader::Awaited { took: true },
            Reader::Awaited { .. } | Reader::Stalled => {
                state.reader = Reader::Takes;
                drop(state);
                // EAGAIN: it has been told.
                let _ = self.room.write(1);
            }
            Reader::Takes | Reader::Optional => {}
        }
    }
}

/// A device's side: whether it may write now.
pub struct Patience {
    shared: Arc<Shared>,
    timer: TimerFd,
}

impl Patience {
    pub(super) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        Ok(Self { shared, timer: TimerFd::new().map_err(io::Error::from)? })
    }

    /// Whether to write now; if not, there will be word when to ask again.
    pub fn may(&mut self) -> bool {
        let mut state = self.shared.lock();
        // Once it waits it does so until there is room, however often it asks.
        let waits = match state.reader {
            Reader::Takes => state.out.len() >= HIGH,
            Reader::Awaited { .. } => true,
            Reader::Stalled | Reader::Optional => false,
        };
        if waits {
            state.reader = Reader::Awaited { took: false };
        }
        drop(state);
        // A timer that cannot be set would leave the output waiting for ever: rather none.
        !waits || self.timer.reset(PATIENCE, None).is_err()
    }

    /// Has `events` tell, with `token`, when to ask again.
    ///
    /// # Errors
    /// See [`Events::add`].
    pub fn register(&self, events: &Events, token: u64) -> io::Result<()> {
        events.add(&self.shared.room, token)?;
        events.add(&self.timer, token)
    }

    /// The word has been heard: there is room, or nothing was taken for a while.
    pub fn heard(&mut self) {
        let room = self.shared.room.read().is_ok();
        // Disarmed, it is not readable any more; it cannot fail on a timer of our own.
        let _ = self.timer.clear();
        let mut state = self.shared.lock();
        // One that took a little is asked for anew, and waited for as long again.
        if !room && state.reader == (Reader::Awaited { took: false }) {
            state.reader = Reader::Stalled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chardev, Target};
    use super::*;

    #[test]
    fn a_reader_is_waited_for_as_long_as_it_takes_something_while_the_timer_runs() {
        let (_reader, ours) = io::pipe().expect("a pipe");
        let chardev = Chardev::new(Target::Stream { out: ours.into(), input: None }).expect("made");
        let mut patience = chardev.patience().expect("a timer");
        assert!(patience.may());
        chardev.output().write(&[0; HIGH]);
        for _ in 0..100 {
            assert!(!patience.may());
            chardev.shared.taken();
            patience.heard();
        }
        assert!(!patience.may());
        patience.heard();
        assert!(patience.may(), "it has taken nothing");
        chardev.shared.taken();
        assert!(!patience.may(), "it takes something again");
    }
}
