//! The device without a daemon: every request is answered with an error, so that nothing in the guest waits for ever.
//!
//! All of FUSE that is known here is the beginning of a request and of a reply (linux/fuse.h).

use std::io;
use std::ops::ControlFlow;

use devices::virtio::chain::Chain;
use devices::virtio::queue::{Queue, QueueError};
use devices::worker::Events;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::Running;

/// Length, operation, and the number by which a reply finds its request.
const REQUEST: usize = 16;
/// Length, error, and that number.
const REPLY: usize = 16;
/// Operations without a reply: FUSE_FORGET and FUSE_BATCH_FORGET.
const SILENT: [u32; 2] = [2, 42];

impl Running {
    /// The daemon is gone: takes the queues over.
    pub(super) fn lost(&mut self, why: &dyn std::fmt::Display, events: &Events) -> ControlFlow<()> {
        self.warn(why);
        // Dropping it ends what events there are of it, and the connection. A daemon that hangs may still work on the
        // guest's memory, as it might do anything with it; nothing here depends on what it writes.
        self.leave();
        let taken = self.take_over(events);
        self.judge(taken)
    }

    /// The daemon may have kept its kicks, made them blocking, and filled or drained them: they are waited for, but
    /// neither read nor written.
    fn take_over(&mut self, events: &Events) -> io::Result<()> {
        let ram = self.ram.memory();
        for (token, mut grant) in (0..).zip(std::mem::take(&mut self.grants)) {
            let doorbell = std::mem::replace(&mut grant.kick, EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
            let (queue, left) = Queue::take_over(grant, &ram, self.features, |chain| is_open(chain, &ram))
                .map_err(io::Error::other)?;
            let mut queue = queue.taking_astray();
            give_back(&mut queue, left, &ram).map_err(io::Error::other)?;
            events.add_each(queue.kick(), token)?;
            events.add_each(&doorbell, token)?;
            queue.kick_again();
            self.alone.push(queue);
            self.doorbells.push(doorbell);
        }
        Ok(())
    }

    /// Serves the queue at place `token`.
    pub(super) fn answer(&mut self, token: u64) -> ControlFlow<()> {
        let ram = self.ram.memory();
        let Some(queue) = usize::try_from(token).ok().and_then(|at| self.alone.get_mut(at)) else {
            return ControlFlow::Continue(());
        };
        let served = queue.serve(&ram, |chain| refuse(chain, &ram).map(Some));
        self.judge(served)
    }

    fn judge(&self, result: Result<(), impl std::fmt::Display>) -> ControlFlow<()> {
        let Err(why) = result else { return ControlFlow::Continue(()) };
        devices::warn_of_guest!("the share \"{}\" is served no more: {why}", self.share.tag);
        self.needs_reset.raise();
        ControlFlow::Break(())
    }
}

/// Answers the requests that the daemon left.
fn give_back(queue: &mut Queue, left: Vec<Chain>, ram: &GuestMemoryMmap) -> Result<(), QueueError> {
    for chain in left {
        queue.complete(ram, refuse(chain, ram)?)?;
    }
    queue.notify_for_certain();
    Ok(())
}

fn request(chain: &mut Chain, ram: &GuestMemoryMmap) -> Result<Option<(u32, u64)>, QueueError> {
    let Some([head, unique]) = chain.read_obj::<[u64; 2]>(ram)? else { return Ok(None) };
    // The operation is the upper half of the first word.
    let operation = u32::try_from(u64::from_le(head) >> 32).unwrap_or(0);
    Ok(Some((operation, u64::from_le(unique))))
}

/// Whether a request surely has no reply yet. A reply bears its request's number; a guest clears the place for it before. A
/// reply that is there and was not given back may be half of one: that request is answered like the others. Of a request
/// without a reply nothing can be told.
fn is_open(chain: &mut Chain, ram: &GuestMemoryMmap) -> bool {
    let Ok(Some((_, unique))) = request(chain, ram) else { return false };
    if chain.writable() == 0 {
        return false;
    }
    let Ok(slices) = chain.writable_buffers().slices(ram, REPLY) else { return false };
    let mut reply = [0; REPLY];
    let mut done = 0;
    for slice in slices {
        done += slice.copy_to(reply.get_mut(done..).unwrap_or_default());
    }
    let [_, answered] = reply.as_chunks::<8>().0 else { return false };
    done < REPLY || u64::from_le_bytes(*answered) != unique
}

/// Answers a request with ENOTCONN.
fn refuse(mut chain: Chain, ram: &GuestMemoryMmap) -> Result<Chain, QueueError> {
    let Some((operation, unique)) = request(&mut chain, ram)? else { return Ok(chain) };
    if !SILENT.contains(&operation) && chain.writable() >= REPLY {
        let mut reply = Vec::with_capacity(REPLY);
        reply.extend(16u32.to_le_bytes()); // REPLY, as the header has it
        reply.extend((-libc::ENOTCONN).to_le_bytes());
        reply.extend(unique.to_le_bytes());
        chain.write(ram, &reply)?;
    }
    Ok(chain)
}

const _: () = assert!(REQUEST == size_of::<[u64; 2]>());
