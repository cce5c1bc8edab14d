//! The entropy device (VIRTIO 1.3, 5.4), the model for every other: specification, device, worker, tests.
//!
//! One queue. The driver offers buffers, the device fills them with random bytes. Nothing to configure.
//!
//! 1. [`Rng::new`] takes an open source of random bytes, and starts a thread that waits.
//! 2. `start` moves queue and source into it; each kick fills the buffers there are.
//! 3. `stop` takes both back.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use vm_memory::GuestAddressSpace;

use super::chain::{Chain, MoveError};
use super::queue::{Queue, QueueError};
use super::{Activation, Profile, Progress, StartError, VirtioDevice, spec};
use crate::confine::Confinement;
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::worker::{Events, Work, Worker};

const QUEUE_SIZE: u16 = 64;
/// The driver's buffers are at most a page; nobody needs more entropy at once, and no call shall take long.
const MOST: usize = 64 << 10;

/// The device.
#[derive(Debug)]
pub struct Rng {
    /// Here while the device is at rest.
    source: Option<File>,
    worker: Worker<Filling>,
}

impl Rng {
    /// A device that reads `source`: /dev/urandom, /dev/hwrng, any file.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub fn new(source: File, confinement: &Confinement) -> io::Result<Self> {
        Ok(Self { source: Some(source), worker: Worker::new("rng", &[], confinement)? })
    }
}

impl VirtioDevice for Rng {
    fn profile(&self) -> Profile {
        Profile { kind: spec::device::ENTROPY, features: 0, queue_sizes: vec![QUEUE_SIZE], config_len: 0 }
    }

    fn read_config(&self, _offset: u32, _out: &mut [u8]) {}

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { ram, features, mut queues, needs_reset, .. } = activation;
        let grant = queues.pop().ok_or(StartError::Queue(0))?;
        let queue = Queue::open(grant, &ram.memory(), features).map_err(|_| StartError::Queue(0))?;
        let source = self.source.take().ok_or_else(StartError::busy)?;
        self.worker.start(Filling { queue, source, ram, needs_reset }).map_err(|(work, why)| {
            self.source = Some(work.source);
            StartError::worker(why)
        })
    }

    fn stop(&mut self) -> Vec<Progress> {
        let Some(work) = self.worker.stop() else { return Vec::new() };
        self.source = Some(work.source);
        vec![work.queue.progress()]
    }
}

/// What the thread owns.
#[derive(Debug)]
struct Filling {
    queue: Queue,
    source: File,
    ram: GuestRam,
    needs_reset: Interrupt,
}

impl Work for Filling {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add(self.queue.kick(), 0)
    }

    fn ready(&mut self, _token: u64, _events: &Events) -> ControlFlow<()> {
        self.queue.clear_kick();
        let ram = self.ram.memory();
        let source = &mut self.source;
        let served = self.queue.serve(&ram, |mut chain| {
            fill(&mut chain, &ram, source)?;
            Ok(Some(chain))
        });
        match served {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                crate::warn_of_guest!("the guest's entropy driver broke its queue: {why}");
                self.needs_reset.raise();
                ControlFlow::Break(())
            }
        }
    }
}

/// Fills the chain as far as the source gives. A source that fails leaves it empty: the driver asks again.
fn fill(chain: &mut Chain, ram: &vm_memory::GuestMemoryMmap, source: &mut File) -> Result<(), QueueError> {
    match chain.fill_from(ram, source, MOST) {
        Ok(_) => Ok(()),
        Err(MoveError::Chain(why)) => Err(why),
        Err(MoveError::Host(why)) => {
            crate::warn_of_guest!("the entropy device's source cannot be read: {why}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::{conforms, needs_reset};
    use crate::testing::{Buffer, Driver, Over};
    use crate::virtio::spec::feature;
    use vm_memory::{Bytes, GuestAddress};

    fn rng(path: &str) -> Box<dyn VirtioDevice> {
        let source = File::open(path).expect("the source opens");
        Box::new(Rng::new(source, &Confinement::none()).expect("a thread"))
    }

    fn buffer(at: u64, len: u32) -> Buffer {
        Buffer { at, len, writable: true }
    }

    fn driver(over: Over, path: &str) -> Driver {
        let mut driver = Driver::new(rng(path), over);
        driver.start(feature::COMMON);
        driver
    }

    #[test]
    fn rng_keeps_the_rules_of_virtio() {
        conforms(|| rng("/dev/urandom"));
    }

    #[test]
    fn rng_fills_the_buffer_with_random_bytes_and_says_so() {
        for over in [Over::Mmio, Over::Pci] {
            let mut driver = driver(over, "/dev/urandom");
            let head = driver.rings[0].add(&[buffer(0x1000, 32), buffer(0x2000, 32)]);
            driver.notify(0);
            let used = driver.rings[0].wait();
            assert_eq!((used.head, used.written), (head.into(), 64));
            let bytes: [u8; 32] = driver.ram.memory().read_obj(GuestAddress(0x2000)).expect("read");
            assert!(bytes.iter().any(|b| *b != 0));
            crate::testing::until("an interrupt", || driver.interrupts(0) > 0);
        }
    }

    #[test]
    fn rng_takes_what_a_short_source_gives_and_goes_on() {
        let mut driver = driver(Over::Pci, "/dev/null");
        for _ in 0..3 {
            driver.rings[0].add(&[buffer(0x1000, 32)]);
            driver.notify(0);
            assert_eq!(driver.rings[0].wait().written, 0);
        }
    }

    #[test]
    fn a_chain_without_an_end_needs_a_reset() {
        for over in [Over::Mmio, Over::Pci] {
            let mut driver = driver(over, "/dev/urandom");
            driver.rings[0].descriptor(0, 0x1000, 16, 3, 0);
            driver.rings[0].offer(0, 1);
            driver.notify(0);
            needs_reset(&mut driver);
        }
    }
}
