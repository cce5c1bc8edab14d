//! The driver's side of everything, for tests: interrupts that are counted, a ring as a driver fills it, registers as
//! a driver writes them over either transport, and the conformance suite that every virtio device must pass.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing
#![allow(clippy::cast_possible_truncation)] // small numbers all

pub mod conformance;
mod face;
mod ring;
pub mod script;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::doorbell::{Doorbell, DoorbellAddress, DoorbellSource};
use crate::interrupt::{MsiSource, MsiVector};
use crate::memory::GuestRam;
use crate::shared_memory::{Region, RegionSource, Shown};

pub use face::{Driver, Over, REGION};
pub use ring::{Buffer, Ring, Used};

/// Guest memory of these tests: the first megabyte and, behind a hole, another one.
pub const RAM: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 1 << 20), (GuestAddress(0x1000_0000), 1 << 20)];

/// Fresh guest memory, which another process can map.
pub fn ram() -> GuestRam {
    let total = RAM.iter().map(|(_, len)| *len as u64).sum();
    let file = memfd_create(c"guest-ram", MFdFlags::MFD_CLOEXEC).map(File::from).expect("a memfd");
    file.set_len(total).expect("a size");
    let file = Arc::new(file);
    let mut offset = 0;
    let ranges = RAM.map(|(at, len)| {
        let part = FileOffset::from_arc(file.clone(), offset);
        offset += len as u64;
        (at, len, Some(part))
    });
    GuestRam::new(GuestMemoryMmap::from_ranges_with_files(ranges).expect("memory"))
}

/// An address and its data; `None` for being masked.
pub type Message = Option<(u64, u32)>;

/// Vectors that write down their messages, `None` for being masked.
#[derive(Clone, Default)]
pub struct Messages {
    log: Arc<Mutex<Vec<Message>>>,
    /// Of each vector, ours and the one that is lent.
    events: Arc<Mutex<Vec<[EventFd; 2]>>>,
}

impl Messages {
    /// The messages since the last call.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.log.lock().expect("log"))
    }

    /// The eventfd of the vector made as the `n`th.
    pub fn event(&self, n: usize) -> EventFd {
        self.events.lock().expect("events")[n][0].try_clone().expect("a clone")
    }

    /// Signals of the vector made as the `n`th since the last call, whoever they are from.
    pub fn signals(&self, n: usize) -> u64 {
        self.events.lock().expect("events")[n].iter().map(|event| event.read().unwrap_or(0)).sum()
    }
}

/// Ours, and the one that is lent.
struct Vector([EventFd; 2], Messages);

impl MsiVector for Vector {
    fn eventfd(&self) -> &EventFd {
        &self.0[0]
    }
    fn lend(&self) -> io::Result<EventFd> {
        self.0[1].try_clone()
    }
    fn unmask(&self, address: u64, data: u32) -> io::Result<()> {
        self.1.log.lock().expect("log").push(Some((address, data)));
        Ok(())
    }
    fn mask(&self) -> io::Result<()> {
        self.1.log.lock().expect("log").push(None);
        Ok(())
    }
}

impl MsiSource for Messages {
    fn vector(&self) -> io::Result<Box<dyn MsiVector>> {
        let events = [EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?];
        let seen = [events[0].try_clone()?, events[1].try_clone()?];
        self.events.lock().expect("events").push(seen);
        Ok(Box::new(Vector(events, self.clone())))
    }
}

/// What a hypervisor was asked to take, and has not been asked to let go of.
#[derive(Clone)]
pub struct Noted<T>(Arc<Mutex<Vec<T>>>);

/// A hypervisor that notes the doorbells it is given and signals none, so that every ring goes through the registers.
pub type Doorbells = Noted<DoorbellAddress>;
/// A hypervisor that notes where it is to show regions, and shows none where there is one.
pub type Regions = Noted<u64>;

impl<T> Default for Noted<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Copy + PartialEq> Noted<T> {
    /// Those that there are.
    pub fn list(&self) -> Vec<T> {
        self.0.lock().expect("a list").clone()
    }

    fn take(&self, what: T) -> io::Result<Box<Held<T>>> {
        if self.list().contains(&what) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.0.lock().expect("a list").push(what);
        Ok(Box::new(Held(self.clone(), what)))
    }
}

/// One of them.
struct Held<T: Copy + PartialEq>(Noted<T>, T);

impl<T: Copy + PartialEq> Drop for Held<T> {
    fn drop(&mut self) {
        self.0.0.lock().expect("a list").retain(|other| *other != self.1);
    }
}

impl Doorbell for Held<DoorbellAddress> {}

impl DoorbellSource for Doorbells {
    fn register(&self, at: DoorbellAddress, _: &EventFd) -> io::Result<Box<dyn Doorbell>> {
        Ok(self.take(at)?)
    }
}

impl Shown for Held<u64> {}

impl RegionSource for Regions {
    fn show(&self, at: u64, _: &Arc<Region>) -> io::Result<Box<dyn Shown>> {
        Ok(self.take(at)?)
    }
}

/// Waits until `done`, at most a minute: a machine with other things to do may leave a thread out for seconds.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

/// A sequence of numbers that look random and are the same in every run (xorshift64).
pub struct Numbers(pub u64);

impl Numbers {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Has reads and writes of an eventfd wait, for all who have it: what another process that was given it can do.
pub fn make_blocking(event: &EventFd) {
    let (here, there) = UnixStream::pair().expect("a pair");
    here.send_with_fd(&[0][..], event.as_raw_fd()).expect("sent");
    let (_, given) = there.recv_with_fd(&mut [0]).expect("received");
    fcntl(given.expect("a descriptor"), FcntlArg::F_SETFL(OFlag::empty())).expect("its flags");
}
