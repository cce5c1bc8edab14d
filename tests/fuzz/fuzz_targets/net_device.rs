//! The network device against a driver that offers what it likes in all its queues, and a wire that brings what it
//! likes, over activation and reset.
#![no_main]

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::{Buffer, Driver, Over};
use devices::virtio::VirtioDevice;
use libfuzzer_sys::fuzz_target;
use virtio_net::{Net, Options, Tap, Vhost};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

/// The device and its wire's other end; all pairs share one wire.
fn device(pairs: usize, offload: bool, limited: bool) -> (Box<dyn VirtioDevice>, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().expect("two sockets");
    theirs.set_nonblocking(true).expect("a flag");
    let taps = (0..pairs)
        .map(|_| Tap::wire(OwnedFd::from(ours.try_clone().expect("a descriptor"))).expect("a wire"))
        .collect();
    // So little that a run meets the limits, and so much that it does not wait for long.
    let rate = NonZeroU64::new(20_000).filter(|_| limited);
    let rates = Rates { bytes: rate, operations: rate };
    let options = Options { mac: [2, 0, 0, 0, 0, 1], mtu: Some(1500), offload, vhost: Vhost::Off, rates };
    (Box::new(Net::new(0, taps, options, &Confinement::none()).expect("a device")), theirs)
}

/// Buffers from three bytes each: where, how long, for whom.
fn buffers(bytes: &[u8]) -> Vec<Buffer> {
    let buffer = |raw: &[u8; 3]| Buffer {
        at: u64::from(raw[0]) << 12,
        len: u32::from(raw[1]) << (raw[2] & 15),
        writable: raw[2] & 0x80 != 0,
    };
    bytes.as_chunks().0.iter().map(buffer).collect()
}

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let over = if shape & 1 == 0 { Over::Mmio } else { Over::Pci };
    let (device, wire) = device(1 + usize::from(shape >> 1 & 1), shape & 4 != 0, shape & 32 != 0);
    let mut driver = Driver::new(device, over);
    // Without merged buffers, or without many pairs, other code serves.
    let features = u64::MAX & !(u64::from(shape >> 3 & 1) << 15) & !(u64::from(shape >> 4 & 1) << 22);
    driver.start(features);
    let queues = driver.rings.len();
    let mut rest = rest;
    while let [op, a, b, tail @ ..] = rest {
        let (value, tail) = tail.split_at(usize::from(op >> 3).min(tail.len()));
        rest = tail;
        let queue = usize::from(*a) % queues;
        let layout = driver.rings[queue].layout;
        let room = layout.used + 8 * u64::from(layout.size) - layout.desc;
        match op & 7 {
            0 => {
                let at = layout.desc + u64::from(u16::from_le_bytes([*b, value.first().copied().unwrap_or(0)])) % room;
                driver.ram.memory().write_slice(value, GuestAddress(at)).expect("in memory");
            }
            1 | 2 => drop(driver.rings[queue].add(&buffers(value))),
            3 => drop(wire.send(&value.repeat(1 + usize::from(*b)))),
            4 => drop(wire.recv(&mut [0; 4096])),
            5 => {
                // What a command or a packet says.
                let at = u64::from(*b) << 12;
                driver.ram.memory().write_slice(value, GuestAddress(at)).expect("in memory");
            }
            6 => {
                driver.notify(u16::from(*a) % queues as u16);
                // The threads have their turn.
                std::thread::sleep(Duration::from_micros(20));
            }
            _ => {
                driver.config(u64::from(*a) % 16, 1 << (b & 3));
                driver.start(features);
            }
        }
    }
    driver.set_status(0);
    driver.start(u64::MAX);
});
