//! The block device (VIRTIO 1.3, 5.2): a disk of the guest's over a raw file or a block device of the host's.
//!
//! Data go between the image and guest memory without a copy of ours. A thread serves each queue, by io_uring where
//! the host allows it. With F_FLUSH negotiated the disk has a writeback cache, the host's page cache, and a flush is
//! an fdatasync; without it every write is on the disk when it is done.
//!
//! 1. [`Disk::open`] opens, locks and measures an image.
//! 2. [`Block::new`] makes the device of it: a ring, a limiter and a thread that waits, for each queue.
//! 3. `start` moves each queue into its thread, which serves its requests.
//! 4. `stop` waits until the host has done every request, then takes everything back.

mod disk;
mod request;
mod sys;
mod work;

use std::io;
use std::sync::Arc;

use vm_memory::GuestAddressSpace;

use super::queue::Queue;
use super::{Activation, Profile, Progress, QueueGrant, StartError, VirtioDevice, spec};
use crate::confine::Confinement;
use crate::rate::{self, Limiter, Rates};
use crate::worker::Worker;
use request::{DISCARD, ZEROES};
use work::{CALLS, Engine, Means, Serving, UNDER_WAY};

pub use disk::{Disk, DiskError, Options};

const QUEUE_SIZE: u16 = 256;
/// Buffers of a request's data: what is left of a queue beside header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes up to and with the limits of write-zeroes (5.2.4).
const CONFIG_LEN: u32 = 60;

// Feature bits (5.2.3).
const F_SEG_MAX: u32 = 2;
const F_RO: u32 = 5;
const F_BLK_SIZE: u32 = 6;
const F_FLUSH: u32 = 9;
const F_TOPOLOGY: u32 = 10;
const F_MQ: u32 = 12;
const F_DISCARD: u32 = 13;
const F_WRITE_ZEROES: u32 = 14;

/// The device.
pub struct Block {
    disk: Arc<Disk>,
    lanes: Vec<Lane>,
}

/// A queue's thread, and what it gets beside the queue.
struct Lane {
    /// Here while the device is at rest.
    means: Option<Means>,
    worker: Worker<Serving>,
}

impl Block {
    /// A device with `queues` queues over `disk`, which they share evenly, and the rates too.
    ///
    /// # Errors
    /// The host has no thread or timer to give.
    pub fn new(disk: Disk, queues: u16, rates: Rates, confinement: &Confinement) -> io::Result<Self> {
        Self::with(disk, queues, rates, confinement, |disk| Engine::of(disk, QUEUE_SIZE))
    }

    fn with(
        disk: Disk,
        queues: u16,
        rates: Rates,
        confinement: &Confinement,
        engine: impl Fn(&Disk) -> Engine,
    ) -> io::Result<Self> {
        let calls: Vec<_> = CALLS.into_iter().chain(rate::CALLS).collect();
        let most = UNDER_WAY / usize::from(queues.max(1));
        let lane = |index: u16| {
            let limiter = Limiter::new(rates.shared_by(queues))?;
            let means = Means { engine: engine(&disk), limiter, most };
            let worker = Worker::new(&format!("disk-{index}"), &calls, confinement)?;
            Ok(Lane { means: Some(means), worker })
        };
        let lanes = (0..queues.max(1)).map(lane).collect::<io::Result<_>>()?;
        Ok(Self { disk: Arc::new(disk), lanes })
    }

    /// The disk, to be measured again when its image has grown or shrunk.
    pub fn disk(&self) -> Arc<Disk> {
        self.disk.clone()
    }

    fn config(&self) -> [u8; CONFIG_LEN as usize] {
        let geometry = self.disk.geometry;
        let blocks = |bytes: u32| bytes / geometry.block;
        let mut config = [0; CONFIG_LEN as usize];
        let mut put = |at: usize, bytes: &[u8]| {
            config.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        put(0, &self.disk.sectors().to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &geometry.block.to_le_bytes());
        put(24, &blocks(geometry.physical).max(1).trailing_zeros().to_le_bytes()[..1]);
        put(26, &u16::try_from(blocks(geometry.least)).unwrap_or(0).to_le_bytes());
        put(28, &blocks(geometry.best).to_le_bytes());
        put(34, &u16::try_from(self.lanes.len()).unwrap_or(u16::MAX).to_le_bytes());
        // Limits of discard: sectors, ranges, alignment; of write-zeroes: sectors, ranges, and that it may unmap.
        let aligned = geometry.physical / 512;
        for (at, number) in [
            (36, DISCARD.sectors),
            (40, DISCARD.ranges),
            (44, aligned),
            (48, ZEROES.sectors),
            (52, ZEROES.ranges),
        ] {
            put(at, &number.to_le_bytes());
        }
        put(56, &[1]);
        config
    }

    fn give(&mut self, grant: QueueGrant, activation: &Activation) -> Result<(), StartError> {
        let Activation { ram, features, needs_reset, .. } = activation;
        let index = grant.index.0;
        let lane = self.lanes.get_mut(usize::from(index)).ok_or(StartError::Queue(index))?;
        let queue = Queue::open(grant, &ram.memory(), *features).map_err(|_| StartError::Queue(index))?;
        let queue = queue.taking_astray();
        let means = lane.means.take().ok_or_else(StartError::busy)?;
        let (disk, features) = (self.disk.clone(), *features);
        let (ram, needs_reset) = (ram.clone(), needs_reset.clone());
        let work = Serving { queue, means, disk, features, ram, needs_reset, held: None, broken: false };
        lane.worker.start(work).map_err(|(work, why)| {
            lane.means = Some(work.means);
            StartError::worker(why)
        })
    }
}

impl VirtioDevice for Block {
    fn profile(&self) -> Profile {
        let bits = [F_SEG_MAX, F_BLK_SIZE, F_FLUSH, F_TOPOLOGY];
        let mut features = bits.iter().fold(0, |all, bit| all | 1 << bit);
        features |= match self.disk.readonly {
            true => 1 << F_RO,
            false => 1 << F_DISCARD | 1 << F_WRITE_ZEROES,
        };
        features |= u64::from(self.lanes.len() > 1) << F_MQ;
        Profile {
            kind: spec::device::BLOCK,
            features,
            queue_sizes: vec![QUEUE_SIZE; self.lanes.len()],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let config = self.config();
        out.iter_mut().zip(config.iter().skip(offset as usize)).for_each(|(o, c)| *o = *c);
    }

    fn start(&mut self, mut activation: Activation) -> Result<(), StartError> {
        let grants = std::mem::take(&mut activation.queues);
        if grants.is_empty() {
            return Err(StartError::Queue(0));
        }
        for grant in grants {
            if let Err(why) = self.give(grant, &activation) {
                self.stop();
                return Err(why);
            }
        }
        self.disk.tell(Some(activation.config_changed));
        Ok(())
    }

    fn stop(&mut self) -> Vec<Progress> {
        self.disk.tell(None);
        let mut progress = Vec::new();
        for lane in &mut self.lanes {
            if let Some(work) = lane.worker.stop() {
                progress.push(work.queue.progress());
                lane.means = Some(work.means);
            }
        }
        progress
    }
}

#[cfg(test)]
mod tests;
