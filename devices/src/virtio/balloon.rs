//! The balloon device (VIRTIO 1.3, 5.5): guest memory that is given back to the host.
//!
//! The host names a size for the balloon; the driver takes so much memory from the guest and lists its pages in the
//! inflate queue, where they are given back. Pages in the deflate queue are the guest's again: touching them is enough.
//! With free page reporting the driver also names, unasked, what the guest has no use for at the moment.
//!
//! 1. [`Balloon::new`] makes the device, and starts a thread that waits.
//! 2. `start` moves the queues into it; each kick gives memory back.
//! 3. `stop` takes them back. What was given back stays so until the guest touches it.
//!
//! Queues by number (5.5.2): 0 inflates, 1 deflates, 4 reports. Drivers differ in whether queues that are left out (2 and
//! 3, for features that are not offered) count, so whichever is used from 2 on is the one that reports.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap};

use super::chain::Chain;
use super::queue::{Queue, QueueError};
use super::{Activation, Profile, Progress, StartError, VirtioDevice, spec};
use crate::confine::Confinement;
use crate::interrupt::Interrupt;
use crate::memory::{self, GuestRam};
use crate::worker::{Events, Work, Worker};

const QUEUE_SIZE: u16 = 128;
const INFLATE: u64 = 0;
const DEFLATE: u64 = 1;
/// Wanted pages, and pages there are (5.5.4).
const CONFIG_LEN: u32 = 8;
/// Where the latter stand.
const ACTUAL: u32 = 4;

/// The driver takes pages back when the guest runs out of memory (5.5.3).
const F_DEFLATE_ON_OOM: u32 = 2;
/// There is a queue for free pages.
const F_REPORTING: u32 = 5;

/// Bytes of a page as the queues count them (5.5.6), whatever the guest's pages are.
const PAGE: u64 = memory::PAGE as u64;
/// Page numbers taken from one chain at most; a driver's chains have 256.
const MOST: usize = 4096;

/// What the driver may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Take pages back when the guest runs out of memory.
    pub deflate_on_oom: bool,
    /// Report pages that the guest has no use for.
    pub free_page_reporting: bool,
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    options: Options,
    size: Arc<Size>,
    worker: Worker<Giving>,
}

/// How large the balloon is and shall be: a handle for whoever commands the machine.
#[derive(Debug)]
pub struct Size {
    wanted: AtomicU32,
    actual: AtomicU32,
    /// To be raised when another size is wanted, while there is a driver.
    changed: Mutex<Option<Interrupt>>,
}

impl Size {
    fn pages(bytes: u64) -> u32 {
        u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
    }

    /// Has the driver make the balloon `bytes` large, rounded down to pages; it takes its time, or may not manage.
    pub fn set(&self, bytes: u64) {
        self.wanted.store(Self::pages(bytes), Ordering::Release);
        if let Some(changed) = &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            changed.raise();
        }
    }

    /// How large the driver says the balloon is, in bytes.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual.load(Ordering::Acquire)) * PAGE
    }

    fn tell(&self, changed: Option<Interrupt>) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = changed;
    }
}

impl Balloon {
    /// A balloon that shall be `bytes` large from the start.
    ///
    /// # Errors
    /// The host has no thread to give.
    pub fn new(bytes: u64, options: Options, confinement: &Confinement) -> io::Result<Self> {
        let (wanted, actual) = (AtomicU32::new(Size::pages(bytes)), AtomicU32::new(0));
        let size = Arc::new(Size { wanted, actual, changed: Mutex::new(None) });
        Ok(Self { options, size, worker: Worker::new("balloon", &[], confinement)? })
    }

    /// The balloon's size.
    pub fn size(&self) -> Arc<Size> {
        self.size.clone()
    }

    fn config(&self) -> impl Iterator<Item = u8> {
        let [wanted, actual] = [&self.size.wanted, &self.size.actual].map(|n| n.load(Ordering::Acquire));
        wanted.to_le_bytes().into_iter().chain(actual.to_le_bytes())
    }
}

impl VirtioDevice for Balloon {
    fn profile(&self) -> Profile {
        let Options { deflate_on_oom, free_page_reporting } = self.options;
        Profile {
            kind: spec::device::BALLOON,
            features: u64::from(deflate_on_oom) << F_DEFLATE_ON_OOM
                | u64::from(free_page_reporting) << F_REPORTING,
            queue_sizes: vec![QUEUE_SIZE; if free_page_reporting { 5 } else { 2 }],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        out.iter_mut().zip(self.config().skip(offset as usize)).for_each(|(o, c)| *o = c);
    }

    fn write_config(&mut self, offset: u32, data: &[u8]) {
        // Only the driver's own word may be written, and only as a whole.
        if let (ACTUAL, Ok(pages)) = (offset, data.try_into()) {
            self.size.actual.store(u32::from_le_bytes(pages), Ordering::Release);
        }
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { ram, features, queues, config_changed, needs_reset } = activation;
        let map = ram.memory();
        let mut open = Vec::new();
        for grant in queues {
            let index = grant.index.0;
            open.push(Queue::open(grant, &map, features).map_err(|_| StartError::Queue(index))?);
        }
        if open.len() < 2 {
            return Err(StartError::Queue(0));
        }
        let shared = memory::is_shared(&map);
        let work = Giving { queues: open, ram, shared, needs_reset };
        self.worker.start(work).map_err(|(_, why)| StartError::worker(why))?;
        self.size.tell(Some(config_changed));
        Ok(())
    }

    fn stop(&mut self) -> Vec<Progress> {
        self.size.tell(None);
        let Some(work) = self.worker.stop() else { return Vec::new() };
        // The next driver begins with an empty balloon (5.5.5).
        self.size.actual.store(0, Ordering::Release);
        work.queues.iter().map(Queue::progress).collect()
    }
}

/// What the thread owns.
#[derive(Debug)]
struct Giving {
    queues: Vec<Queue>,
    ram: GuestRam,
    shared: bool,
    needs_reset: Interrupt,
}

impl Work for Giving {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        self.queues.iter().try_for_each(|queue| events.add_each(queue.kick(), queue.index().0.into()))
    }

    fn ready(&mut self, token: u64, _events: &Events) -> ControlFlow<()> {
        let (ram, shared) = (self.ram.memory(), self.shared);
        let queue = self.queues.iter_mut().find(|queue| u64::from(queue.index().0) == token);
        let served = queue.map_or(Ok(()), |queue| {
            queue.serve(&ram, |mut chain| {
                match token {
                    INFLATE => inflate(&mut chain, &ram, shared)?,
                    // Memory that was given back comes again when it is touched.
                    DEFLATE => {}
                    _ => report(&chain, &ram, shared)?,
                }
                Ok(Some(chain))
            })
        });
        match served {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                crate::warn_of_guest!("the guest's balloon driver broke a queue: {why}");
                self.needs_reset.raise();
                ControlFlow::Break(())
            }
        }
    }
}

/// Gives back the pages whose numbers the chain lists.
fn inflate(chain: &mut Chain, ram: &GuestMemoryMmap, shared: bool) -> Result<(), QueueError> {
    let mut raw = vec![0; chain.readable().min(4 * MOST)];
    chain.read(ram, &mut raw)?;
    let mut pages: Vec<u32> = raw.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
    pages.sort_unstable();
    pages.dedup();
    for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let (Some(first), pages) = (run.first(), run.len()) else { continue };
        give_back(ram, u64::from(*first) * PAGE, pages * memory::PAGE, shared);
    }
    Ok(())
}

/// Gives back `len` bytes at `at`. Pages that are none, or that the host will not take, are no reason to stop.
fn give_back(ram: &GuestMemoryMmap, at: u64, len: usize, shared: bool) {
    for slice in ram.get_slices(GuestAddress(at), len) {
        match slice.map(|slice| memory::give_back(&slice, shared)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                crate::warn_of_guest!("the host does not take memory of the balloon's back: {why}")
            }
            Err(_) => {
                crate::warn_of_guest!("the guest's balloon has pages that the machine has not, at {at:#x}");
                return;
            }
        }
    }
}

/// Gives back the buffers themselves, which are free pages (5.5.6.7): the guest will not care what is in them.
fn report(chain: &Chain, ram: &GuestMemoryMmap, shared: bool) -> Result<(), QueueError> {
    for slice in chain.writable_buffers().slices(ram, usize::MAX)? {
        if let Err(why) = memory::give_back(&slice, shared) {
            crate::warn_of_guest!("the host does not take the guest's free pages back: {why}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::conformance::{conforms, needs_reset};
    use crate::testing::{Buffer, Driver, Over};
    use crate::virtio::spec::feature;
    use vm_memory::Bytes;

    const ALL: Options = Options { deflate_on_oom: true, free_page_reporting: true };

    fn balloon(bytes: u64) -> Balloon {
        Balloon::new(bytes, ALL, &Confinement::none()).expect("a thread")
    }

    fn live(over: Over) -> Driver {
        let mut driver = Driver::new(Box::new(balloon(0)), over);
        driver.start(u64::MAX);
        fill(&driver);
        driver
    }

    fn fill(driver: &Driver) {
        driver.ram.memory().write_slice(&[0xaa; 64 << 10], GuestAddress(0x1_0000)).expect("written");
    }

    /// Which of the sixteen pages from 64 KiB on are still what they were.
    fn kept(driver: &Driver) -> Vec<u64> {
        let byte = |page: &u64| driver.ram.memory().read_obj::<u8>(GuestAddress(0x1_0000 + page * PAGE));
        (0..16).filter(|page| byte(page).expect("read") == 0xaa).collect()
    }

    fn list(driver: &mut Driver, queue: u16, pages: &[u32]) {
        let raw: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        driver.ram.memory().write_slice(&raw, GuestAddress(0x2000)).expect("written");
        let len = raw.len() as u32;
        // In two pieces that end in the midst of a number.
        let first = len.min(6);
        let parts = [(0x2000, first), (0x2000 + u64::from(first), len - first)];
        driver.rings[usize::from(queue)].add(&parts.map(|(at, len)| Buffer { at, len, writable: false }));
        driver.notify(queue);
        assert_eq!(driver.rings[usize::from(queue)].wait().written, 0);
    }

    #[test]
    fn balloon_keeps_the_rules_of_virtio() {
        conforms(|| Box::new(balloon(1 << 20)));
        conforms(|| Box::new(Balloon::new(0, Options::default(), &Confinement::none()).expect("a thread")));
    }

    #[test]
    fn pages_in_the_inflate_queue_are_given_back_and_no_others() {
        for over in [Over::Mmio, Over::Pci] {
            let mut driver = live(over);
            list(&mut driver, 0, &[19, 17, 18, 17, 24]);
            assert_eq!(kept(&driver), [0, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]);
            list(&mut driver, 1, &[16]);
            assert_eq!(kept(&driver).len(), 12, "deflating takes nothing");
            crate::testing::until("an interrupt", || driver.interrupts(0) > 0);
        }
    }

    #[test]
    fn pages_that_are_not_there_are_passed_over() {
        let mut driver = live(Over::Pci);
        list(&mut driver, 0, &[u32::MAX, 0x7fff_ffff, 0x200, 0xff, 0x100, 17]);
        assert_eq!(kept(&driver).len(), 15);
        list(&mut driver, 0, &[]);
        list(&mut driver, 0, &[18]);
        assert_eq!(kept(&driver).len(), 14);
    }

    #[test]
    fn free_pages_are_given_back_wherever_the_driver_has_its_queue() {
        for (over, queue) in [(Over::Mmio, 2), (Over::Pci, 4)] {
            let mut driver = live(over);
            // The first buffer begins and ends within a page.
            let buffers = [(0x1_0800, 0x2000), (0x1_5000, 0x3000)];
            driver.rings[queue].add(&buffers.map(|(at, len)| Buffer { at, len, writable: true }));
            driver.notify(queue as u16);
            driver.rings[queue].wait();
            assert_eq!(kept(&driver), [0, 2, 3, 4, 8, 9, 10, 11, 12, 13, 14, 15]);
        }
    }

    #[test]
    fn the_driver_hears_of_another_size_and_tells_what_it_has() {
        for over in [Over::Mmio, Over::Pci] {
            let device = balloon(3 * PAGE);
            let size = device.size();
            let mut driver = Driver::new(Box::new(device), over);
            driver.start(feature::COMMON);
            assert_eq!(driver.config(0, 4), [3, 0, 0, 0]);
            size.set(5 * PAGE + 1);
            assert_eq!(driver.config(0, 4), [5, 0, 0, 0]);
            let at = if over == Over::Mmio { 0x100 } else { 0x1000 };
            driver.poke(at + 4, &4u32.to_le_bytes());
            driver.poke(at, &9u32.to_le_bytes());
            assert_eq!((size.actual(), driver.config(0, 8)), (4 * PAGE, vec![5, 0, 0, 0, 4, 0, 0, 0]));
            driver.set_status(0);
            assert_eq!(size.actual(), 0);
        }
    }

    #[test]
    fn a_chain_without_an_end_needs_a_reset() {
        for queue in [0u16, 1, 4] {
            let mut driver = live(Over::Mmio);
            driver.rings[usize::from(queue)].descriptor(0, 0x1000, 16, 3, 0);
            driver.rings[usize::from(queue)].offer(0, 1);
            driver.notify(queue);
            needs_reset(&mut driver);
        }
    }
}
