//! The entropy device (VIRTIO 1.3, 5.4), the model for every other: specification, device, worker, tests.
//!
//! One queue. The driver offers buffers, the device fills them with random bytes. Nothing to configure.
//!
//! 1. [`Rng::new`] takes an open source of random bytes and perhaps limits, and starts a thread that waits.
//! 2. `start` moves queue and source into it; each kick fills the buffers there are, or as many as the limits allow.
//! 3. `stop` takes all back.

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
use crate::rate::{self, Limiter, Rates};
use crate::worker::{Events, Work, Worker};

const QUEUE_SIZE: u16 = 64;
/// The driver's buffers are at most a page; nobody needs more entropy at once, and no call shall take long.
const MOST: usize = 64 << 10;

/// The device.
#[derive(Debug)]
pub struct Rng {
    /// Here while the device is at rest.
    means: Option<Means>,
    worker: Worker<Filling>,
}

/// What the worker needs beside the queue.
#[derive(Debug)]
struct Means {
    source: File,
    limiter: Limiter,
}

const KICK: u64 = 0;
const TIMER: u64 = 1;

impl Rng {
    /// A device that reads `source`: /dev/urandom, /dev/hwrng, any file; no faster than `rates` allow.
    ///
    /// # Errors
    /// The host has no thread or timer to give.
    pub fn new(source: File, rates: Rates, confinement: &Confinement) -> io::Result<Self> {
        let means = Means { source, limiter: Limiter::new(rates)? };
        Ok(Self { means: Some(means), worker: Worker::new("rng", &rate::CALLS, confinement)? })
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
        let means = self.means.take().ok_or_else(StartError::busy)?;
        self.worker.start(Filling { queue, means, ram, needs_reset }).map_err(|(work, why)| {
            self.means = Some(work.means);
            StartError::worker(why)
        })
    }

    fn stop(&mut self) -> Vec<Progress> {
        let Some(work) = self.worker.stop() else { return Vec::new() };
        self.means = Some(work.means);
        vec![work.queue.progress()]
    }
}

/// What the thread owns.
#[derive(Debug)]
struct Filling {
    queue: Queue,
    means: Means,
    ram: GuestRam,
    needs_reset: Interrupt,
}

impl Work for Filling {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        events.add_each(self.queue.kick(), KICK)?;
        self.means.limiter.register(events, TIMER)
    }

    fn ready(&mut self, token: u64, _events: &Events) -> ControlFlow<()> {
        let Means { source, limiter } = &mut self.means;
        if token == TIMER {
            limiter.rang();
        }
        let ram = self.ram.memory();
        let bytes = |chain: &Chain| chain.writable().min(MOST);
        let served = self.queue.serve_within(&ram, limiter, bytes, |mut chain| {
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
    use std::num::NonZeroU64;
    use std::time::{Duration, Instant};
    use vm_memory::{Bytes, GuestAddress};

    fn rng(path: &str, rates: Rates) -> Box<dyn VirtioDevice> {
        let source = File::open(path).expect("the source opens");
        Box::new(Rng::new(source, rates, &Confinement::none()).expect("a thread"))
    }

    fn a_second(bytes: u64, operations: u64) -> Rates {
        Rates { bytes: NonZeroU64::new(bytes), operations: NonZeroU64::new(operations) }
    }

    fn buffer(at: u64, len: u32) -> Buffer {
        Buffer { at, len, writable: true }
    }

    fn driver(over: Over, path: &str) -> Driver {
        let mut driver = Driver::new(rng(path, Rates::default()), over);
        driver.start(feature::COMMON);
        driver
    }

    #[test]
    fn rng_keeps_the_rules_of_virtio() {
        conforms(|| rng("/dev/urandom", Rates::default()));
        conforms(|| rng("/dev/urandom", a_second(1000, 10)));
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
    fn limits_hold_buffers_back_and_fill_all_of_them_in_the_end() {
        // A tenth of a second's worth at once, and then fifteen more of them.
        for rates in [a_second(3200, 0), a_second(0, 100)] {
            for over in [Over::Mmio, Over::Pci] {
                let mut driver = Driver::new(rng("/dev/urandom", rates), over);
                driver.start(feature::COMMON);
                let begun = Instant::now();
                for _ in 0..25 {
                    driver.rings[0].add(&[buffer(0x1000, 32)]);
                }
                driver.notify(0);
                (0..25).for_each(|_| assert_eq!(driver.rings[0].wait().written, 32));
                assert!(begun.elapsed() >= Duration::from_millis(140), "{:?}", begun.elapsed());
            }
        }
    }

    fn more(driver: &mut Driver) {
        driver.rings[0].add(&[buffer(0x1000, 128)]);
        driver.notify(0);
    }

    /// Has a first buffer filled, and resets the device three times while the next one is held back.
    fn reset_while_held_back(driver: &mut Driver) {
        driver.start(feature::COMMON);
        more(driver);
        driver.rings[0].wait();
        for _ in 0..3 {
            more(driver);
            driver.set_status(0);
            driver.start(feature::COMMON);
        }
    }

    #[test]
    fn a_reset_lets_no_driver_off_its_limit() {
        for over in [Over::Mmio, Over::Pci] {
            let mut driver = Driver::new(rng("/dev/urandom", a_second(0, 1)), over);
            let begun = Instant::now();
            reset_while_held_back(&mut driver);
            more(&mut driver);
            driver.rings[0].wait();
            assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn a_reset_does_not_wait_for_a_buffer_that_is_held_back() {
        for over in [Over::Mmio, Over::Pci] {
            // The first passes, and holds the next one back for two minutes.
            let mut driver = Driver::new(rng("/dev/urandom", a_second(1, 0)), over);
            let begun = Instant::now();
            reset_while_held_back(&mut driver);
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
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
