//! The device's control thread: what was negotiated, the control queue (VIRTIO 1.3, 5.1.6.5), the link, and the
//! kernel's vhost-net where it works the other queues.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use devices::confine::Call;
use devices::interrupt::Interrupt;
use devices::memory::GuestRam;
use devices::virtio::chain::Chain;
use devices::virtio::queue::{Queue, QueueError};
use devices::virtio::vhost::kernel::Node;
use devices::virtio::{Features, Progress, QueueGrant};
use devices::worker::{Events, Work};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use vm_memory::{GuestAddressSpace, GuestMemoryMmap};

use crate::net::Shared;
use crate::tap::Tap;
use crate::{header, sys};

/// What the control thread asks of the kernel beside what every worker does; where the kernel works queues, there is
/// more (`devices::virtio::vhost::kernel::CALLS`).
pub(crate) const CALLS: [Call; 2] = [
    Call::Only(libc::SYS_ioctl, 1, &[sys::SET_OFFLOAD, sys::SET_QUEUE, sys::GET_IFF]),
    // News of links.
    Call::Any(libc::SYS_recvfrom),
];

const COMMANDS: u64 = 0;
const LINKS: u64 = 1;
/// Tokens from here on are the kernel's nodes.
const NODES: u64 = 2;

/// Classes and commands.
const MAC: u8 = 1;
const MAC_ADDR_SET: u8 = 1;
const MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const GUEST_OFFLOADS: u8 = 5;
const GUEST_OFFLOADS_SET: u8 = 0;
/// Answers.
const OK: u8 = 0;
const ERR: u8 = 1;

/// A pair of queues that the kernel works.
#[derive(Debug)]
pub(crate) struct KernelPair {
    pub(crate) node: Node,
    pub(crate) rings: [QueueGrant; 2],
    /// Whether the kernel has been told to work it.
    pub(crate) works: bool,
    /// Known when it is over.
    pub(crate) progress: Vec<Progress>,
}

/// What the thread owns.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) queue: Option<Queue>,
    pub(crate) taps: Vec<Tap>,
    /// Pairs that the driver has set up.
    pub(crate) pairs: usize,
    pub(crate) kernels: Vec<KernelPair>,
    /// Readable when something about a link has changed.
    pub(crate) links: Option<OwnedFd>,
    pub(crate) features: Features,
    pub(crate) ram: GuestRam,
    pub(crate) shared: Arc<Shared>,
    pub(crate) config_changed: Interrupt,
    pub(crate) needs_reset: Interrupt,
}

/// A socket that tells of changes to this network namespace's links. What it says is not read: it says when to look.
pub(crate) fn links() -> io::Result<OwnedFd> {
    const RTMGRP_LINK: u32 = 1;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let links = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(links.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
    Ok(links)
}

impl Control {
    /// Sets on the taps what was negotiated, and has the kernel work them. A tap that is gone is a link that is down, and
    /// no error; the kernel would refuse it.
    fn set_up(&mut self) -> io::Result<()> {
        let done = self.set_taps();
        if self.look_at_link() { done.and_then(|()| self.start_kernels()) } else { Ok(()) }
    }

    fn set_taps(&self) -> io::Result<()> {
        take_part(&self.taps, 1)?;
        let flags = header::tap_flags(self.features);
        self.taps.first().map_or(Ok(()), |tap| tap.set_offloads(flags))
    }

    fn look_at_link(&self) -> bool {
        let gone = self.taps.iter().find(|tap| !tap.is_there());
        if let Some(tap) = gone {
            self.shared.link_down(tap.name(), &self.config_changed);
        }
        gone.is_none()
    }

    fn start_kernels(&mut self) -> io::Result<()> {
        let (ram, features) = (&self.ram, self.features);
        let done = self.kernels.iter_mut().try_for_each(|pair| {
            pair.node.start(ram, features, &pair.rings)?;
            pair.works = true;
            Ok(())
        });
        if done.is_err() {
            self.kernels.iter_mut().for_each(KernelPair::stop);
        }
        done
    }

    fn commands(&mut self) -> Result<(), QueueError> {
        let ram = self.ram.memory();
        let Some(queue) = &mut self.queue else { return Ok(()) };
        let office =
            Office { taps: &self.taps, pairs: self.pairs, features: self.features, shared: &self.shared };
        queue.serve(&ram, |chain| office.serve(chain, &ram).map(Some))
    }
}

impl KernelPair {
    fn stop(&mut self) {
        self.progress = if std::mem::take(&mut self.works) {
            self.node.stop(&self.rings)
        } else {
            self.rings.iter().map(|ring| ring.from).collect()
        };
    }
}

/// Has the first `pairs` queues take part and no others.
fn take_part(taps: &[Tap], pairs: usize) -> io::Result<()> {
    taps.iter().enumerate().try_for_each(|(i, tap)| tap.take_part(i < pairs))
}

/// What commands are about.
struct Office<'a> {
    taps: &'a [Tap],
    pairs: usize,
    features: Features,
    shared: &'a Shared,
}

impl Office<'_> {
    fn serve(&self, mut chain: Chain, ram: &GuestMemoryMmap) -> Result<Chain, QueueError> {
        // Copied out, for the guest may change it at any time; no command of ours has more than eight bytes.
        let (mut command, mut data) = ([0; 2], [0; 8]);
        let whole = chain.read(ram, &mut command)? == command.len();
        let len = chain.read(ram, &mut data)?;
        let data = data.get(..len).filter(|_| chain.readable() == 0).unwrap_or_default();
        let answer = if whole && self.obey(command, data) { OK } else { ERR };
        chain.write(ram, &[answer])?;
        Ok(chain)
    }

    /// Whether the command was one, and was obeyed.
    fn obey(&self, command: [u8; 2], data: &[u8]) -> bool {
        match command {
            [MAC, MAC_ADDR_SET] if self.features.has(header::CTRL_MAC_ADDR) => {
                data.try_into().is_ok_and(|mac| {
                    self.shared.set_mac(mac);
                    true
                })
            }
            [MQ, MQ_VQ_PAIRS_SET] if self.features.has(header::MQ) => {
                data.try_into().is_ok_and(|pairs| self.set_pairs(u16::from_le_bytes(pairs)))
            }
            [GUEST_OFFLOADS, GUEST_OFFLOADS_SET] if self.features.has(header::CTRL_GUEST_OFFLOADS) => {
                data.try_into().is_ok_and(|offloads| self.set_offloads(u64::from_le_bytes(offloads)))
            }
            _ => false,
        }
    }

    fn set_pairs(&self, pairs: u16) -> bool {
        let pairs = usize::from(pairs);
        (1..=self.pairs).contains(&pairs) && take_part(self.taps, pairs).is_ok()
    }

    /// Only what was negotiated can be chosen of (5.1.6.5.6.2).
    fn set_offloads(&self, offloads: u64) -> bool {
        let sound = offloads & !self.features.0 == 0;
        let flags = header::tap_flags(Features(offloads));
        sound && self.taps.first().is_some_and(|tap| tap.set_offloads(flags).is_ok())
    }
}

impl Work for Control {
    fn register(&mut self, events: &Events) -> io::Result<()> {
        if let Some(queue) = &self.queue {
            events.add_each(queue.kick(), COMMANDS)?;
        }
        if let Some(links) = &self.links {
            events.add(links, LINKS)?;
        }
        for (token, pair) in (NODES..).zip(&self.kernels) {
            events.add(pair.node.failed(), token)?;
        }
        self.set_up()
    }

    fn ready(&mut self, token: u64, _events: &Events) -> ControlFlow<()> {
        let served = match token {
            COMMANDS => self.commands().map_err(|why| why.to_string()),
            LINKS => {
                self.links.iter().for_each(drain);
                self.look_at_link();
                Ok(())
            }
            _ => Err("the kernel works it no more".to_owned()),
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

    fn over(&mut self) {
        self.kernels.iter_mut().for_each(KernelPair::stop);
    }
}

/// Reads what there is; an overflow is news like any other.
fn drain(links: &OwnedFd) {
    let mut bytes = [0; 4096];
    while recv(links.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0) {}
}
