//! Packets from the guest to the tap (VIRTIO 1.3, 5.1.6.2).
//!
//! One `writev` takes a packet and its header straight from guest memory. A tap that takes no more holds the packet's
//! chain back, and with it the guest, until it does; a packet that the kernel refuses is lost, as on any wire.

use std::io;

use devices::rate::{Gate, Limiter};
use devices::virtio::Progress;
use devices::virtio::chain::Chain;
use devices::virtio::queue::{Queue, QueueError};
use vm_memory::GuestMemoryMmap;

use crate::tap::Tap;
use crate::{header, sys};

/// Packets at once; after that the other queue has its turn.
const BATCH: usize = 64;
/// Room for the largest segment and for tags before it; what is longer no driver sends.
const LONGEST: usize = header::LARGEST + 64;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All is sent, or what is left will be kicked for.
    Waiting,
    /// The tap takes no more: look again when it does.
    Blocked,
    /// The limit allows no more: its timer tells when to look again.
    Limited,
    /// The tap is no more.
    Gone,
}

/// The transmitting queue.
#[derive(Debug)]
pub(crate) struct Tx {
    queue: Queue,
    /// The packet that the tap would not take yet.
    held: Option<Chain>,
    pub(crate) limiter: Limiter,
}

/// What became of a packet.
enum Sent {
    Done,
    Blocked,
    Gone,
}

impl Tx {
    pub(crate) fn new(queue: Queue, limiter: Limiter) -> Self {
        // A process of the guest's may have it send from a device's shared memory, which is no memory of ours.
        Self { queue: queue.taking_astray(), held: None, limiter }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Where a driver finds the queue: a packet that was not sent was never taken.
    pub(crate) fn progress(&self) -> Progress {
        let Progress { next_avail, next_used } = self.queue.progress();
        Progress { next_avail: next_avail.wrapping_sub(u16::from(self.held.is_some())), next_used }
    }

    /// Sends packets until there are none, or the tap is full, or the limit is reached, or it is the other queue's turn.
    pub(crate) fn turn(&mut self, tap: &Tap, ram: &GuestMemoryMmap) -> Result<Turn, QueueError> {
        self.queue.busy(ram)?;
        let turn = self.packets(tap, ram)?;
        self.queue.notify(ram)?;
        Ok(turn)
    }

    fn packets(&mut self, tap: &Tap, ram: &GuestMemoryMmap) -> Result<Turn, QueueError> {
        let mut turn = Turn::Waiting;
        for _ in 0..BATCH {
            if !self.limiter.may() {
                return Ok(Turn::Limited);
            }
            let chain = match self.held.take() {
                Some(chain) => chain,
                None => match self.queue.next(ram)? {
                    Some(chain) => chain,
                    None if self.queue.park(ram)? => continue,
                    None => return Ok(turn),
                },
            };
            match send(&chain, tap, ram)? {
                Sent::Done => {
                    self.limiter.pay(chain.readable().saturating_sub(header::LEN));
                    self.queue.complete(ram, chain)?;
                }
                Sent::Gone => {
                    // Packets of a cable that has been pulled are lost; the driver is not held up.
                    self.queue.complete(ram, chain)?;
                    turn = Turn::Gone;
                }
                Sent::Blocked => {
                    self.held = Some(chain);
                    return Ok(Turn::Blocked);
                }
            }
        }
        self.queue.kick_again();
        Ok(turn)
    }
}

fn send(chain: &Chain, tap: &Tap, ram: &GuestMemoryMmap) -> Result<Sent, QueueError> {
    let slices = chain.readable_buffers().slices(ram, LONGEST + 1)?;
    let is_packet = (header::LEN..=LONGEST).contains(&chain.readable()) && slices.len() <= sys::PIECES;
    if chain.is_astray() || !is_packet {
        devices::warn_of_guest!(bytes = chain.readable(), "a packet of the guest's is no packet");
        return Ok(Sent::Done);
    }
    Ok(match tap.write(&slices) {
        Ok(_) => Sent::Done,
        Err(e) => match e.raw_os_error() {
            _ if e.kind() == io::ErrorKind::WouldBlock => Sent::Blocked,
            Some(libc::EBADFD | libc::EPIPE | libc::ECONNRESET) => Sent::Gone,
            // An interface that is down, a header the kernel does not believe, no memory.
            _ => {
                devices::warn_of_guest!("a packet of the guest's is lost: {e}");
                Sent::Done
            }
        },
    })
}
