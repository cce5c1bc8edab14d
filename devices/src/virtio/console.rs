//! The console device (VIRTIO 1.3, 5.3), with one port: what the guest calls `hvc0`.
//!
//! Two queues of the port: the driver offers room for input in the first and output in the second. Bytes go to and
//! come from a [`Chardev`], which bounds both directions: a guest that writes waits for no reader but one that is slow
//! ([`Patience`]), and input is read no faster than the guest takes it. Limits hold either direction back for itself.
//!
//! 1. [`Console::new`] takes both ends of a chardev, and starts a thread that waits.
//! 2. `start` moves the queues into it. Kicks move output, the chardev's word moves input.
//! 3. `stop` takes everything back; input that was not taken waits for the next driver.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use vm_memory::{GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::chain::Chain;
use super::queue::{Queue, QueueError};
use super::{Activation, Profile, Progress, StartError, VirtioDevice, spec};
use crate::chardev::{Chardev, InputEnd, Output, Patience};
use crate::confine::{Call, Confinement};
use crate::interrupt::Interrupt;
use crate::memory::GuestRam;
use crate::rate::{self, Gate, Limiter, Rates};
use crate::worker::{Events, Work, Worker};

const QUEUE_SIZE: u16 = 128;
/// Columns, rows, ports, and a word for emergencies (5.3.4).
const CONFIG_LEN: u32 = 12;
/// The configuration holds the console's size (5.3.3).
const F_SIZE: u32 = 0;

/// Tokens of the queues, which are their indices.
const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
/// Token of the chardev's word that there is input.
const TYPED: u64 = 2;
/// Tokens of the limits' timers.
const INPUT_TIMER: u64 = 3;
const OUTPUT_TIMER: u64 = 4;
/// Token of the chardev's word that there is room for output.
const ROOM: u64 = 5;

/// What is moved in one step.
const STEP: usize = 4096;
/// What of one chain is printed at most; a driver's chains are a page.
const MOST: usize = 1 << 20;

/// A console's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The device.
pub struct Console {
    size: Option<Size>,
    /// Here while the device is at rest.
    means: Option<Means>,
    worker: Worker<Carrying>,
}

/// Beside what a worker does: whoever hears of the first output may read counters then, as a boot report does.
const CALLS: [Call; 1] = [Call::Any(libc::SYS_pread64)];

/// Both ends of the chardev, and what may go through them.
struct Means {
    output: Box<dyn Output>,
    input: InputEnd,
    typed: Arc<EventFd>,
    typing: Limiter,
    printing: Printing,
}

/// What output goes through.
struct Printing {
    limiter: Limiter,
    patience: Patience,
}

impl Gate for Printing {
    fn may(&mut self) -> bool {
        self.patience.may() && self.limiter.may()
    }

    fn pay(&mut self, bytes: usize) {
        self.limiter.pay(bytes);
    }
}

impl Console {
    /// A console in front of `chardev`, whose size is told to the guest where it has one; either direction is held to
    /// `rates`, an operation being a buffer of the driver's.
    ///
    /// # Errors
    /// The host has no thread, timer or eventfd to give.
    pub fn new(
        chardev: &Chardev,
        size: Option<Size>,
        rates: Rates,
        confinement: &Confinement,
    ) -> io::Result<Self> {
        let typed = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let (input, tell) = (chardev.input(), typed.clone());
        // EAGAIN: it has been told.
        input.on_input(move || drop(tell.write(1)));
        let printing = Printing { limiter: Limiter::new(rates)?, patience: chardev.patience()? };
        let typing = Limiter::new(rates)?;
        let means = Some(Means { output: chardev.output(), input, typed, typing, printing });
        let calls: Vec<_> = CALLS.into_iter().chain(rate::CALLS).collect();
        Ok(Self { size, means, worker: Worker::new("console", &calls, confinement)? })
    }
}

impl VirtioDevice for Console {
    fn profile(&self) -> Profile {
        Profile {
            kind: spec::device::CONSOLE,
            features: u64::from(self.size.is_some()) << F_SIZE,
            queue_sizes: vec![QUEUE_SIZE; 2],
            config_len: CONFIG_LEN,
        }
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        let size = self.size.unwrap_or_default();
        let mut config = [0; CONFIG_LEN as usize];
        let [cols, rows] = [size.columns.to_le_bytes(), size.rows.to_le_bytes()];
        // One port; the field means something only with MULTIPORT.
        let bytes = cols.into_iter().chain(rows).chain(1u32.to_le_bytes());
        config.iter_mut().zip(bytes).for_each(|(c, b)| *c = b);
        out.iter_mut().zip(config.iter().skip(offset as usize)).for_each(|(o, c)| *o = *c);
    }

    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        let Activation { ram, features, queues, needs_reset, .. } = activation;
        let map = ram.memory();
        let mut open = Vec::new();
        for grant in queues {
            let index = grant.index.0;
            open.push(Queue::open(grant, &map, features).map_err(|_| StartError::Queue(index))?);
        }
        let queues = <[Queue; 2]>::try_from(open).map_err(|_| StartError::Queue(0))?;
        let means = self.means.take().ok_or_else(StartError::busy)?;
        // Input that came while nobody took it.
        let _ = means.typed.write(1);
        self.worker.start(Carrying { queues, means, ram, needs_reset }).map_err(|(work, why)| {
            self.means = Some(work.means);
            StartError::worker(why)
        })
    }

    fn stop(&mut self) -> Vec<Progress> {
        let Some(work) = self.worker.stop() else { return Vec::new() };
        self.means = Some(work.means);
        work.queues.iter().map(Queue::progress).collect()
    }
}

/// What the thread owns.
struct Carrying {
    queues: [Queue; 2],
    means: Means,
    ram: GuestRam,
    needs_reset: Interrupt,
}

impl Work for Carrying {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        for (token, queue) in [INPUT, OUTPUT].into_iter().zip(&self.queues) {
            events.add_each(queue.kick(), token)?;
        }
        self.means.typing.register(events, INPUT_TIMER)?;
        self.means.printing.limiter.register(events, OUTPUT_TIMER)?;
        self.means.printing.patience.register(events, ROOM)?;
        events.add(&*self.means.typed, TYPED)
    }

    fn ready(&mut self, token: u64, _events: &Events) -> ControlFlow<()> {
        let ram = self.ram.memory();
        let Self { queues: [input, output], means, .. } = self;
        let Means { output: sink, input: keys, typed, typing, printing } = means;
        match token {
            INPUT_TIMER => typing.rang(),
            OUTPUT_TIMER => printing.limiter.rang(),
            ROOM => printing.patience.heard(),
            TYPED => _ = typed.read(),
            _ => {}
        }
        let carried = if matches!(token, OUTPUT | OUTPUT_TIMER | ROOM) {
            let bytes = |chain: &Chain| chain.readable().min(MOST);
            output.serve_within(&ram, printing, bytes, |chain| print(chain, &ram, sink.as_mut()))
        } else {
            type_in(input, &ram, keys, typing)
        };
        match carried {
            Ok(()) => ControlFlow::Continue(()),
            Err(why) => {
                crate::warn_of_guest!("the guest's console driver broke a queue: {why}");
                self.needs_reset.raise();
                ControlFlow::Break(())
            }
        }
    }
}

/// Prints what the driver wrote.
fn print(
    mut chain: Chain,
    ram: &GuestMemoryMmap,
    output: &mut dyn Output,
) -> Result<Option<Chain>, QueueError> {
    let mut buf = [0; STEP];
    let mut printed = 0;
    while printed < MOST {
        let n = chain.read(ram, &mut buf)?;
        if n == 0 {
            break;
        }
        output.write(buf.get(..n).unwrap_or_default());
        printed += n;
    }
    Ok(Some(chain))
}

/// Hands input to the driver, as long as there is some, there is room for it, and `limiter` allows.
fn type_in(
    queue: &mut Queue,
    ram: &GuestMemoryMmap,
    input: &InputEnd,
    limiter: &mut Limiter,
) -> Result<(), QueueError> {
    let mut buf = [0; STEP];
    while input.is_ready() && limiter.may() {
        let Some(mut chain) = queue.next(ram)? else {
            if queue.park(ram)? {
                continue;
            }
            break;
        };
        let room = chain.writable().min(STEP);
        let n = input.take(buf.get_mut(..room).unwrap_or_default());
        limiter.pay(n);
        chain.write(ram, buf.get(..n).unwrap_or_default())?;
        queue.complete(ram, chain)?;
        if room == 0 {
            // A buffer without room takes nothing; a driver that offers only such is not waited for here.
            queue.kick_again();
            break;
        }
    }
    queue.notify(ram)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chardev::{Pump, Target};
    use crate::testing::conformance::{conforms, needs_reset};
    use crate::testing::{Buffer, Driver, Over, until};
    use crate::virtio::spec::feature;
    use std::io::{Read, Write};
    use std::num::NonZeroU64;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};
    use vm_memory::{Bytes, GuestAddress};

    /// Indices of the rings.
    const INPUT: usize = 0;
    const OUTPUT: usize = 1;
    const SIZE: Option<Size> = Some(Size { columns: 80, rows: 25 });

    fn console(chardev: &Chardev) -> Box<dyn VirtioDevice> {
        limited(chardev, Rates::default())
    }

    fn limited(chardev: &Chardev, rates: Rates) -> Box<dyn VirtioDevice> {
        Box::new(Console::new(chardev, SIZE, rates, &Confinement::none()).expect("a thread"))
    }

    /// A console, and the other end of its line.
    fn connected(over: Over) -> (Driver, UnixStream, Option<Pump>) {
        connected_within(over, Rates::default())
    }

    fn connected_within(over: Over, rates: Rates) -> (Driver, UnixStream, Option<Pump>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let input = ours.try_clone().expect("a clone").into();
        let chardev = Chardev::new(Target::Stream { out: ours.into(), input: Some(input) }).expect("made");
        let mut driver = Driver::new(limited(&chardev, rates), over);
        let pump = chardev.start("line", &Confinement::none()).expect("started");
        driver.start(feature::COMMON);
        (driver, theirs, pump)
    }

    #[test]
    fn console_keeps_the_rules_of_virtio() {
        conforms(|| console(&Chardev::new(Target::Null).expect("made")));
        conforms(|| limited(&Chardev::new(Target::Null).expect("made"), SLOW));
    }

    /// Ten buffers, or ten times two bytes, at once, and a hundred more of them a second.
    const SLOW: Rates = Rates { bytes: NonZeroU64::new(200), operations: NonZeroU64::new(100) };

    #[test]
    fn limits_hold_output_back_and_lose_nothing() {
        for over in [Over::Mmio, Over::Pci] {
            let (mut driver, mut line, _pump) = connected_within(over, SLOW);
            let begun = Instant::now();
            for letter in b'a'..=b'z' {
                let at = 0x1000 + 2 * u64::from(letter);
                driver.ram.memory().write_slice(&[letter; 2], GuestAddress(at)).expect("written");
                driver.rings[OUTPUT].add(&[Buffer { at, len: 2, writable: false }]);
            }
            driver.notify(1);
            let mut got = [0; 52];
            line.read_exact(&mut got).expect("read");
            assert!(begun.elapsed() >= Duration::from_millis(149), "{:?}", begun.elapsed());
            assert!((b'a'..=b'z').zip(got.chunks(2)).all(|(letter, two)| two == [letter; 2]), "{got:?}");
        }
    }

    #[test]
    fn limits_hold_input_back_and_lose_nothing() {
        for over in [Over::Mmio, Over::Pci] {
            let (mut driver, mut line, _pump) = connected_within(over, SLOW);
            let begun = Instant::now();
            line.write_all(&[b'x'; 50]).expect("written");
            for _ in 0..25 {
                driver.rings[INPUT].add(&[Buffer { at: 0x3000, len: 2, writable: true }]);
            }
            driver.notify(0);
            (0..25).for_each(|_| assert_eq!(driver.rings[INPUT].wait().written, 2));
            assert!(begun.elapsed() >= Duration::from_millis(149), "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn what_the_guest_writes_comes_out_in_order() {
        for over in [Over::Mmio, Over::Pci] {
            let (mut driver, mut line, _pump) = connected(over);
            let mut sent = Vec::new();
            for round in 0..200u32 {
                let text = format!("line {round}\n");
                driver.ram.memory().write_slice(text.as_bytes(), GuestAddress(0x1000)).expect("written");
                let len = u32::try_from(text.len()).expect("small");
                let parts = [(0x1000, 2), (0x1002, len - 2)];
                driver.rings[OUTPUT].add(&parts.map(|(at, len)| Buffer { at, len, writable: false }));
                driver.notify(1);
                assert_eq!(driver.rings[OUTPUT].wait().written, 0);
                sent.extend(text.bytes());
            }
            let mut got = vec![0; sent.len()];
            line.read_exact(&mut got).expect("read");
            assert_eq!(got, sent);
        }
    }

    #[test]
    fn what_is_typed_waits_until_the_guest_has_room() {
        for over in [Over::Mmio, Over::Pci] {
            let (mut driver, mut line, _pump) = connected(over);
            line.write_all(b"hello, guest").expect("written");
            let mut got = Vec::new();
            while got.len() < 12 {
                driver.rings[INPUT].add(&[Buffer { at: 0x3000, len: 5, writable: true }]);
                driver.notify(0);
                let n = driver.rings[INPUT].wait().written as usize;
                let mut bytes = vec![0; n];
                driver.ram.memory().read_slice(&mut bytes, GuestAddress(0x3000)).expect("read");
                got.extend(bytes);
            }
            assert_eq!(got, b"hello, guest");
            until("an interrupt", || driver.interrupts(0) > 0);
        }
    }

    #[test]
    fn a_reader_that_never_comes_does_not_hold_the_guest_up() {
        let chardev = Chardev::new(Target::Null).expect("made");
        let mut driver = Driver::new(console(&chardev), Over::Pci);
        driver.start(feature::COMMON);
        for _ in 0..1000 {
            driver.rings[OUTPUT].add(&[Buffer { at: 0, len: 0x8000, writable: false }]);
            driver.notify(1);
            driver.rings[OUTPUT].wait();
        }
        assert_eq!(chardev.tail().written(), 1000 * 0x8000);
    }

    /// Has `driver` print `n` pages, each full of the least byte of its number.
    fn print_pages(driver: &mut Driver, n: u32) {
        for page in 0..n {
            driver
                .ram
                .memory()
                .write_slice(&[page.to_le_bytes()[0]; 4096], GuestAddress(0x4000))
                .expect("written");
            driver.rings[OUTPUT].add(&[Buffer { at: 0x4000, len: 4096, writable: false }]);
            driver.notify(1);
            driver.rings[OUTPUT].wait();
        }
    }

    #[test]
    fn a_reader_that_is_slow_misses_nothing() {
        for over in [Over::Mmio, Over::Pci] {
            let (mut driver, mut line, _pump) = connected(over);
            let reader = std::thread::spawn(move || {
                let mut got = vec![0; 256 * 4096];
                got.chunks_mut(16 << 10).for_each(|chunk| {
                    std::thread::sleep(Duration::from_millis(2));
                    line.read_exact(chunk).expect("read");
                });
                got
            });
            print_pages(&mut driver, 256);
            let got = reader.join().expect("all came");
            assert!(got.chunks(4096).enumerate().all(|(n, page)| page.iter().all(|b| usize::from(*b) == n)));
        }
    }

    #[test]
    fn a_reader_that_takes_a_little_at_a_time_is_waited_for_as_long_as_it_takes() {
        // A pipe has room as soon as a page was taken from it; a socket has not.
        let (mut line, ours) = std::io::pipe().expect("a pipe");
        let chardev = Chardev::new(Target::Stream { out: ours.into(), input: None }).expect("made");
        let tail = chardev.tail();
        let mut driver = Driver::new(console(&chardev), Over::Pci);
        let pump = chardev.start("line", &Confinement::none()).expect("started");
        driver.start(feature::COMMON);
        let reader = std::thread::spawn(move || {
            // Longer than anybody is waited for who takes nothing, and never near as long between one page and the next.
            for _ in 0..24 {
                std::thread::sleep(Duration::from_millis(50));
                line.read_exact(&mut [0; 4096]).expect("read");
            }
            std::io::copy(&mut line, &mut std::io::sink())
        });
        print_pages(&mut driver, 128);
        assert_eq!(tail.dropped(), 0);
        drop((driver, pump));
        assert_eq!(reader.join().expect("it ends").expect("read"), (128 - 24) * 4096);
    }

    #[test]
    fn a_reader_that_takes_nothing_is_waited_for_once_until_it_takes_something() {
        let (ours, mut line) = UnixStream::pair().expect("a pair");
        let chardev = Chardev::new(Target::Stream { out: ours.into(), input: None }).expect("made");
        let tail = chardev.tail();
        let mut driver = Driver::new(console(&chardev), Over::Pci);
        let _pump = chardev.start("line", &Confinement::none()).expect("started");
        driver.start(feature::COMMON);
        let begun = Instant::now();
        print_pages(&mut driver, 512);
        assert!(begun.elapsed() >= Duration::from_secs(1) && tail.dropped() > 0, "{:?}", begun.elapsed());
        // Each of them would be waited for.
        let begun = Instant::now();
        print_pages(&mut driver, 100);
        assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
        let reader = std::thread::spawn(move || std::io::copy(&mut line, &mut std::io::sink()));
        until("the reader has taken all", || tail.waiting() == 0);
        let dropped = tail.dropped();
        print_pages(&mut driver, 512);
        assert_eq!(tail.dropped(), dropped);
        drop((driver, _pump));
        reader.join().expect("it ends").expect("read");
    }

    #[test]
    fn room_of_no_bytes_is_given_back_empty() {
        let (mut driver, mut line, _pump) = connected(Over::Pci);
        line.write_all(b"x").expect("written");
        driver.rings[INPUT].add(&[Buffer { at: 0x3000, len: 0, writable: true }]);
        driver.rings[INPUT].add(&[Buffer { at: 0x3000, len: 1, writable: true }]);
        driver.notify(0);
        assert_eq!(driver.rings[INPUT].wait().written, 0);
        assert_eq!(driver.rings[INPUT].wait().written, 1);
    }

    #[test]
    fn the_configuration_tells_the_size() {
        let chardev = Chardev::new(Target::Null).expect("made");
        let mut driver = Driver::new(console(&chardev), Over::Mmio);
        assert_eq!(driver.config(0, 4), [80, 0, 25, 0]);
        assert_eq!(driver.config(2, 2), [25, 0]);
    }

    #[test]
    fn a_run_away_index_needs_a_reset() {
        let (mut driver, ..) = connected(Over::Mmio);
        let size = driver.rings[OUTPUT].layout.size;
        driver.rings[OUTPUT].offer(0, size + 1);
        driver.notify(1);
        needs_reset(&mut driver);
    }
}
