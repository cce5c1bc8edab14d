//! A pair of queues and its thread: `rx` and `tx` by turns, over one queue of the tap.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use devices::addr::QueueIndex;
use devices::confine::Call;
use devices::interrupt::Interrupt;
use devices::memory::GuestRam;
use devices::virtio::Progress;
use devices::virtio::queue::QueueError;
use devices::worker::{Events, Work};
use vm_memory::GuestAddressSpace;

use crate::net::Shared;
use crate::rx::{self, Rx};
use crate::tap::Tap;
use crate::tx::{self, Tx};

/// What a pair's thread asks of the kernel beside what every worker and every limiter does.
pub(crate) const CALLS: [Call; 2] = [Call::Any(libc::SYS_readv), Call::Any(libc::SYS_writev)];

const RX_KICK: u64 = 0;
const TX_KICK: u64 = 1;
const TAP_IN: u64 = 2;
const TAP_OUT: u64 = 3;
/// The limits' timers.
const RX_TIMER: u64 = 4;
const TX_TIMER: u64 = 5;

/// What the thread owns.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) tap: Tap,
    /// The tap once more, to wait for both directions apart.
    pub(crate) out: Tap,
    pub(crate) rx: Rx,
    pub(crate) tx: Tx,
    pub(crate) ram: GuestRam,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config_changed: Interrupt,
    pub(crate) needs_reset: Interrupt,
    /// Whether the tap's packets are waited for, and its room.
    pub(crate) listening: bool,
    pub(crate) blocked: bool,
}

impl Pair {
    /// How far both queues got.
    pub(crate) fn progress(&self) -> [(QueueIndex, Progress); 2] {
        [(self.rx.queue().index(), self.rx.progress()), (self.tx.queue().index(), self.tx.progress())]
    }

    fn receive(&mut self, events: &Events) -> Result<(), QueueError> {
        // A tap that is no more has something to say for ever, and is listened to no more.
        let turn = match self.shared.is_up() {
            true => self.rx.turn(&self.tap, &self.ram.memory())?,
            false => rx::Turn::Gone,
        };
        if turn == rx::Turn::Gone {
            self.gone();
        }
        let listen = turn == rx::Turn::Waiting;
        if listen != self.listening {
            let done = if listen { events.add(&self.tap, TAP_IN) } else { events.remove(&self.tap) };
            report(done);
            self.listening = listen;
        }
        Ok(())
    }

    fn transmit(&mut self, events: &Events) -> Result<(), QueueError> {
        let turn = self.tx.turn(&self.tap, &self.ram.memory())?;
        if turn == tx::Turn::Gone {
            self.gone();
        }
        let blocked = turn == tx::Turn::Blocked;
        if blocked != self.blocked {
            let done =
                if blocked { events.add_writable(&self.out, TAP_OUT) } else { events.remove(&self.out) };
            report(done);
            self.blocked = blocked;
        }
        Ok(())
    }

    fn gone(&self) {
        self.shared.link_down(self.tap.name(), &self.config_changed);
    }
}

/// An epoll descriptor and a tap of our own, neither of which ends before the work.
fn report(done: io::Result<()>) {
    if let Err(why) = done {
        tracing::error!("a tap cannot be waited for: {why}");
    }
}

impl Work for Pair {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        (self.listening, self.blocked) = (true, false);
        events.add_each(self.rx.queue().kick(), RX_KICK)?;
        events.add_each(self.tx.queue().kick(), TX_KICK)?;
        self.rx.limiter.register(events, RX_TIMER)?;
        self.tx.limiter.register(events, TX_TIMER)?;
        events.add(&self.tap, TAP_IN)
    }

    fn ready(&mut self, token: u64, events: &Events) -> ControlFlow<()> {
        let served = match token {
            RX_KICK | TAP_IN => self.receive(events),
            RX_TIMER => {
                self.rx.limiter.rang();
                self.receive(events)
            }
            TX_TIMER => {
                self.tx.limiter.rang();
                self.transmit(events)
            }
            // A blocked queue's kicks change nothing; the tap's room does.
            TX_KICK if self.blocked => Ok(()),
            _ => self.transmit(events),
        };
        match served {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                devices::warn_of_guest!("the guest's network driver broke a queue: {why}");
                self.needs_reset.raise();
                ControlFlow::Break(())
            }
        }
    }
}
