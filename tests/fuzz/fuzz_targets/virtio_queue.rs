//! A queue's device side against a driver that writes whatever it likes into ring and descriptors, at any moment.
#![no_main]

use devices::addr::QueueIndex;
use devices::interrupt::Interrupt;
use devices::testing::ram;
use devices::virtio::chain::Chain;
use devices::virtio::queue::Queue;
use devices::virtio::{Features, Progress, QueueGrant, RingLayout};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Where the ring is; buffers may be anywhere.
const RING: u64 = 0x1000;

fn queue(size: u16, features: u64, ram: &GuestMemoryMmap) -> Option<Queue> {
    let avail = RING + 16 * u64::from(size);
    let used = (avail + 6 + 2 * u64::from(size)).next_multiple_of(4);
    let grant = QueueGrant {
        index: QueueIndex(0),
        ring: RingLayout { size, desc: RING, avail, used },
        from: Progress::default(),
        kick: EventFd::new(libc::EFD_NONBLOCK).ok()?,
        call: Interrupt::none(),
    };
    Queue::open(grant, ram, Features(features)).ok()
}

/// What a device does with a chain: it reads all there is, and writes all it can.
fn use_up(chain: &mut Chain, ram: &GuestMemoryMmap) {
    let mut buf = [0x5a; 256];
    let (readable, writable) = (chain.readable(), chain.writable());
    let mut seen = 0;
    while seen < 1 << 16 {
        match chain.read(ram, &mut buf) {
            Ok(0) | Err(_) => break,
            Ok(n) => seen += n,
        }
    }
    assert!(seen <= readable);
    let wrote = chain.write(ram, &buf).expect("memory that was there");
    assert!(wrote == buf.len().min(writable));
}

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let shared = ram();
    let ram = shared.memory();
    let Some(mut queue) = queue(1 << (shape & 7), u64::from(shape >> 3) << 27, &ram) else { return };
    let mut held: Vec<Chain> = Vec::new();
    let mut rest = rest;
    while let [op, a, b, tail @ ..] = rest {
        rest = tail;
        match op & 7 {
            // The driver writes into the ring's neighbourhood.
            0..=3 => {
                let n = usize::from(op >> 3).min(rest.len());
                let (bytes, tail) = rest.split_at(n);
                rest = tail;
                let at = RING + u64::from(u16::from_le_bytes([*a, *b]) % 0x1800);
                ram.write_slice(bytes, GuestAddress(at)).expect("in memory");
            }
            4 => match queue.next(&ram) {
                Ok(Some(chain)) => held.push(chain),
                Ok(None) => {}
                Err(_) => return,
            },
            5 => {
                if let Some(mut chain) = held.pop() {
                    use_up(&mut chain, &ram);
                    let _ = queue.complete(&ram, chain);
                }
            }
            6 => {
                let served = queue.serve(&ram, |mut chain| {
                    use_up(&mut chain, &ram);
                    Ok(Some(chain))
                });
                if served.is_err() {
                    return;
                }
            }
            _ => drop(queue.park(&ram).and_then(|_| queue.notify(&ram))),
        }
        assert!(held.len() <= 128, "more chains than descriptors");
    }
});
