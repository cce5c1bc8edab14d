//! The device with a pair of sockets in the tap's place: what a driver sees of it, and what the wire does.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::conformance::{conforms, needs_reset};
use devices::testing::{Buffer, Driver, Over, until};
use devices::virtio::VirtioDevice;
use devices::virtio::spec::feature;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use crate::{Net, Options, Tap, Vhost, header};

const RX: u16 = 0;
const TX: u16 = 1;
const CTRL: u16 = 2;
const BOTH: [Over; 2] = [Over::Mmio, Over::Pci];
/// What a Linux driver takes.
const ALL: u64 = u64::MAX;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// A device with `queues` pairs, and the wires' other ends.
fn net(queues: usize) -> (Box<dyn VirtioDevice>, Vec<File>) {
    limited(queues, Rates::default())
}

fn limited(queues: usize, rates: Rates) -> (Box<dyn VirtioDevice>, Vec<File>) {
    let ends: Vec<(OwnedFd, OwnedFd)> = (0..queues)
        .map(|_| {
            let flags = SockFlag::SOCK_CLOEXEC;
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("two sockets")
        })
        .collect();
    let (taps, wires) = ends
        .into_iter()
        .map(|(ours, theirs)| {
            // As little as the kernel lets it be, so that it is full soon.
            setsockopt(&ours, sockopt::SndBuf, &4096).expect("an option");
            (Tap::wire(ours).expect("a wire"), File::from(theirs))
        })
        .unzip();
    let options = Options { mac: MAC, mtu: Some(9000), offload: true, vhost: Vhost::Off, rates };
    (Box::new(Net::new(0, taps, options, &Confinement::none()).expect("a device")), wires)
}

fn driver(over: Over, features: u64) -> (Driver, File) {
    let (device, mut wires) = net(1);
    let mut driver = Driver::new(device, over);
    driver.start(features);
    (driver, wires.remove(0))
}

fn packet(len: usize, seed: u8) -> Vec<u8> {
    let header = [0; header::LEN];
    let body = (0..len).map(|i| (i as u8).wrapping_mul(seed).wrapping_add(seed));
    header.into_iter().chain(body).collect()
}

fn writable(at: u64, len: u32) -> Buffer {
    Buffer { at, len, writable: true }
}

fn readable(at: u64, len: u32) -> Buffer {
    Buffer { at, len, writable: false }
}

fn memory(driver: &Driver, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    driver.ram.memory().read_slice(&mut bytes, GuestAddress(at)).expect("memory");
    bytes
}

fn put(driver: &Driver, at: u64, bytes: &[u8]) {
    driver.ram.memory().write_slice(bytes, GuestAddress(at)).expect("memory");
}

#[test]
fn net_keeps_the_rules_of_virtio() {
    conforms(|| net(1).0);
    conforms(|| net(4).0);
    conforms(|| limited(1, SLOW[1]).0);
}

#[test]
fn configuration_shows_address_link_pairs_and_largest_packet() {
    for over in BOTH {
        let mut driver = Driver::new(net(4).0, over);
        assert_eq!(driver.config(0, 6), MAC);
        assert_eq!(driver.config(6, 2), [1, 0], "the link is up");
        assert_eq!(driver.config(8, 2), [4, 0]);
        assert_eq!(driver.config(10, 2), 9000_u16.to_le_bytes());
    }
}

#[test]
fn a_packet_of_the_guests_comes_out_of_the_wire_whole() {
    for over in BOTH {
        let (mut driver, mut wire) = driver(over, ALL);
        let sent = packet(1500, 3);
        put(&driver, 0x1000, &sent);
        driver.rings[1].add(&[readable(0x1000, 12), readable(0x100c, 700), readable(0x12c8, 800)]);
        driver.notify(TX);
        let mut came = vec![0; 4096];
        let len = wire.read(&mut came).expect("a packet");
        assert_eq!(came[..len], sent);
        assert_eq!(driver.rings[1].wait().written, 0);
    }
}

#[test]
fn a_packet_for_the_guest_lies_in_as_many_buffers_as_it_needs() {
    for over in BOTH {
        let (mut driver, mut wire) = driver(over, ALL);
        for i in 0..20 {
            driver.rings[0].add(&[writable(0x2000 + i * 0x1000, 0x1000)]);
        }
        driver.notify(RX);
        for (len, chains) in [(100, 1), (9000, 3), (4096 - 12, 1), (4096 - 11, 2)] {
            let sent = packet(len, 5);
            wire.write_all(&sent).expect("sent");
            let mut came = Vec::new();
            for _ in 0..chains {
                let used = driver.rings[0].wait();
                came.extend(memory(&driver, 0x2000 + u64::from(used.head) * 0x1000, used.written as usize));
            }
            assert_eq!(came[10..12], (chains as u16).to_le_bytes(), "the number of buffers");
            assert_eq!(came[12..], sent[12..], "{len} bytes over {over:?}");
            assert_eq!(driver.rings[0].used(), None, "nothing more");
            driver.set_status(0);
            driver.start(ALL);
            for i in 0..20 {
                driver.rings[0].add(&[writable(0x2000 + i * 0x1000, 0x1000)]);
            }
            driver.notify(RX);
        }
    }
}

#[test]
fn without_merging_a_packet_lies_in_one_chain() {
    let (mut driver, mut wire) = driver(Over::Pci, ALL & !(1 << header::MRG_RXBUF));
    driver.rings[0].add(&[writable(0x2000, 12), writable(0x3000, 2000)]);
    driver.notify(RX);
    let sent = packet(1000, 9);
    wire.write_all(&sent).expect("sent");
    assert_eq!(driver.rings[0].wait().written, 1012);
    assert_eq!(memory(&driver, 0x2000, 12)[10..], [1, 0]);
    assert_eq!(memory(&driver, 0x3000, 1000), sent[12..]);
}

#[test]
fn packets_wait_in_the_host_until_the_guest_has_room() {
    for over in BOTH {
        let (mut driver, mut wire) = driver(over, ALL & !(1 << header::MRG_RXBUF));
        for i in 1..=3 {
            wire.write_all(&packet(100, i)).expect("sent");
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(driver.rings[0].used(), None);
        for i in 1..=3 {
            driver.rings[0].add(&[writable(0x2000, 2000)]);
            driver.notify(RX);
            assert_eq!(driver.rings[0].wait().written, 112);
            assert_eq!(memory(&driver, 0x200c, 100), packet(100, i)[12..], "none is lost, in order");
        }
    }
}

#[test]
fn a_wire_that_is_full_holds_the_guest_and_loses_nothing() {
    for over in BOTH {
        let (mut driver, mut wire) = driver(over, ALL);
        for i in 0..100_u16 {
            put(&driver, 0x1_0000 + u64::from(i) * 0x800, &packet(1500, i as u8));
            driver.rings[1].add(&[readable(0x1_0000 + u64::from(i) * 0x800, 1512)]);
        }
        driver.notify(TX);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut done = 0;
        while driver.rings[1].used().is_some() {
            done += 1;
        }
        assert!(done < 100, "{done} were sent into a full wire");
        for i in 0..100_u16 {
            let mut came = vec![0; 4096];
            assert_eq!(wire.read(&mut came).expect("a packet"), 1512);
            assert_eq!(came[..1512], packet(1500, i as u8), "packet {i}");
        }
        for _ in done..100 {
            driver.rings[1].wait();
        }
    }
}

#[test]
fn what_is_no_packet_is_given_back_and_not_sent() {
    let (mut driver, mut wire) = driver(Over::Pci, ALL);
    driver.rings[1].add(&[readable(0x1000, 5)]);
    driver.rings[1].add(&[readable(0, 0x8000), readable(0, 0x8000), readable(0, 0x8000)]);
    driver.rings[1].add(&[writable(0x1000, 100)]);
    driver.rings[1].add(&[readable(0x1000, 72), readable(0x20_0000, 4096)]);
    put(&driver, 0x4000, &packet(60, 1));
    driver.rings[1].add(&[readable(0x4000, 72)]);
    driver.notify(TX);
    (0..5).for_each(|_| assert_eq!(driver.rings[1].wait().written, 0));
    let mut came = vec![0; 4096];
    assert_eq!(wire.read(&mut came).expect("a packet"), 72);
}

#[test]
fn a_chain_without_an_end_needs_a_reset() {
    for (queue, flags) in [(RX, 3), (TX, 1), (CTRL, 1)] {
        let (mut driver, mut wire) = driver(Over::Pci, ALL);
        let ring = &mut driver.rings[usize::from(queue)];
        ring.descriptor(0, 0x1000, 16, flags, 0);
        ring.offer(0, 1);
        wire.write_all(&packet(60, 1)).expect("sent");
        driver.notify(queue);
        needs_reset(&mut driver);
    }
}

/// Gives a command and returns the answer.
fn command(driver: &mut Driver, ring: u16, words: &[u8]) -> u8 {
    put(driver, 0x8000, words);
    put(driver, 0x9000, &[0xaa]);
    let (head, rest) = (readable(0x8000, 2), readable(0x8002, words.len() as u32 - 2));
    driver.rings[usize::from(ring)].add(&[head, rest, writable(0x9000, 1)]);
    driver.notify(ring);
    assert_eq!(driver.rings[usize::from(ring)].wait().written, 1);
    memory(driver, 0x9000, 1)[0]
}

#[test]
fn commands_are_obeyed_or_refused() {
    for over in BOTH {
        let mut driver = Driver::new(net(4).0, over);
        driver.start(ALL);
        assert_eq!(command(&mut driver, 8, &[1, 1, 2, 3, 4, 5, 6, 7]), 0);
        assert_eq!(driver.config(0, 6), [2, 3, 4, 5, 6, 7], "the address is the driver's");
        assert_eq!(command(&mut driver, 8, &[1, 1, 2, 3]), 1, "half an address");
        for (pairs, answer) in [(1, 0), (4, 0), (0, 1), (5, 1)] {
            assert_eq!(command(&mut driver, 8, &[4, 0, pairs, 0]), answer, "{pairs} pairs");
        }
        assert_eq!(command(&mut driver, 8, &[5, 0, 0x82, 0, 0, 0, 0, 0, 0, 0]), 0, "two offloads");
        assert_eq!(command(&mut driver, 8, &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]), 1, "not negotiated");
        assert_eq!(command(&mut driver, 8, &[77, 0, 0]), 1);
        assert_eq!(command(&mut driver, 8, &[0; 100]), 1);
    }
}

#[test]
fn without_many_pairs_the_control_queue_is_the_third() {
    let mut driver = Driver::new(net(4).0, Over::Pci);
    driver.start(ALL & !(1 << header::MQ));
    assert_eq!(command(&mut driver, CTRL, &[1, 1, 2, 3, 4, 5, 6, 7]), 0);
    assert_eq!(command(&mut driver, CTRL, &[4, 0, 1, 0]), 1, "not negotiated");
}

#[test]
fn a_wire_that_is_cut_is_a_link_that_is_down_and_holds_nobody_up() {
    for over in BOTH {
        let (mut driver, wire) = driver(over, ALL);
        drop(wire);
        for i in 0..20 {
            driver.rings[0].add(&[writable(0x2000 + i * 0x1000, 0x1000)]);
        }
        driver.notify(RX);
        until("the link is down", || driver.config(6, 2) == [0, 0]);
        put(&driver, 0x1000, &packet(60, 1));
        driver.rings[1].add(&[readable(0x1000, 72)]);
        driver.notify(TX);
        driver.rings[1].wait();
        driver.set_status(0);
        driver.start(feature::COMMON);
        assert_eq!(driver.config(6, 2), [0, 0], "a reset mends no wire");
    }
}

#[test]
fn a_device_can_be_stopped_and_started_under_load() {
    let (mut driver, mut wire) = driver(Over::Pci, ALL);
    for _ in 0..100 {
        put(&driver, 0x1000, &packet(60, 1));
        for i in 0..20 {
            driver.rings[0].add(&[writable(0x2000 + i * 0x1000, 0x1000)]);
            driver.rings[1].add(&[readable(0x1000, 72)]);
        }
        driver.notify(RX);
        driver.notify(TX);
        let _ = wire.write(&packet(1000, 2));
        driver.set_status(0);
        // Nothing is taken from a wire whose driver is gone, so it is emptied here.
        let mut came = vec![0; 4096];
        let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
        while nix::sys::socket::recv(std::os::fd::AsRawFd::as_raw_fd(&wire), &mut came, flags).is_ok() {}
        driver.start(ALL);
    }
}

/// Of packets of 60 bytes either rate lets ten pass at once, and then one hundred a second.
const SLOW: [Rates; 2] = [
    Rates { bytes: NonZeroU64::new(6000), operations: None },
    Rates { bytes: None, operations: NonZeroU64::new(100) },
];
/// How long 25 of them take; the last one need not be paid for.
const LONG: Duration = Duration::from_millis(139);

#[test]
fn limits_hold_packets_back_either_way_and_lose_none() {
    for (rates, over) in SLOW.into_iter().flat_map(|rates| BOTH.map(|over| (rates, over))) {
        let (device, mut wires) = limited(1, rates);
        let mut driver = Driver::new(device, over);
        driver.start(ALL & !(1 << header::MRG_RXBUF));
        let begun = Instant::now();
        for i in 0..25_u8 {
            let at = 0x1_0000 + u64::from(i) * 0x1000;
            put(&driver, at, &packet(60, i));
            driver.rings[1].add(&[readable(at, 72)]);
            driver.rings[0].add(&[writable(0x8_0000 + u64::from(i) * 0x1000, 2000)]);
        }
        driver.notify(TX);
        driver.notify(RX);
        for i in 0..25_u8 {
            let mut came = [0; 100];
            assert_eq!(wires[0].read(&mut came).expect("a packet"), 72);
            assert_eq!(came[..72], packet(60, i), "none is lost, in order");
        }
        assert!(begun.elapsed() >= LONG, "out: {rates:?} {:?}", begun.elapsed());
        let begun = Instant::now();
        for i in 0..25_u8 {
            // The wire holds few packets, so it waits for the device now and then.
            wires[0].write_all(&packet(60, i)).expect("sent");
        }
        for i in 0..25_u8 {
            assert_eq!(driver.rings[0].wait().written, 72);
            assert_eq!(memory(&driver, 0x8_000c + u64::from(i) * 0x1000, 60), packet(60, i)[12..]);
        }
        assert!(begun.elapsed() >= LONG, "in: {rates:?} {:?}", begun.elapsed());
    }
}

#[test]
fn packets_held_back_do_not_hold_a_reset_up_and_each_way_has_a_limit_of_its_own() {
    // A packet holds the next one that goes the same way back for a minute.
    let (device, mut wires) = limited(1, Rates { bytes: NonZeroU64::new(1), operations: None });
    let mut driver = Driver::new(device, Over::Pci);
    let begun = Instant::now();
    for i in 1..=3 {
        driver.start(ALL & !(1 << header::MRG_RXBUF));
        put(&driver, 0x1000, &packet(60, i));
        (0..2).for_each(|_| _ = driver.rings[1].add(&[readable(0x1000, 72)]));
        driver.notify(TX);
        driver.set_status(0);
    }
    driver.start(ALL & !(1 << header::MRG_RXBUF));
    wires[0].write_all(&packet(60, 9)).expect("sent");
    driver.rings[0].add(&[writable(0x2000, 2000)]);
    driver.notify(RX);
    assert_eq!(driver.rings[0].wait().written, 72);
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?}", begun.elapsed());
}
