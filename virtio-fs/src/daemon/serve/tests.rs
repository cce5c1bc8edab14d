//! A VMM that does not keep to vhost-user: it loses its daemon, and no more happens.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use devices::testing::ram;
use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::super::testing::{End, daemon_and_end, options, shared};
use super::{Arc, Backend, Memory, Out, Ring, RwLock, Server, channel};

const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_ENABLE: u32 = 18;
const SET_PROTOCOL_FEATURES: u32 = 16;

fn message(request: u32, words: &[u64]) -> Vec<u8> {
    let size = u32::try_from(8 * words.len()).expect("small");
    let head = [request, 1, size].map(u32::to_ne_bytes).concat();
    [head, words.iter().flat_map(|word| word.to_ne_bytes()).collect()].concat()
}

/// Two halves of a word.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// A daemon that was greeted as it should be.
fn greeted(dir: &std::path::Path) -> (UnixStream, End) {
    let (mut stream, end) = daemon_and_end(dir, &["--thread-pool-size=2"]);
    for (request, words) in
        [(SET_OWNER, &[][..]), (SET_FEATURES, &[1 << 32 | 1 << 30]), (SET_PROTOCOL_FEATURES, &[1])]
    {
        stream.write_all(&message(request, words)).expect("sent");
    }
    (stream, end)
}

/// Waits for the daemon's end, which must come by itself or with the connection.
fn ends(stream: UnixStream, end: End) {
    stream.shutdown(std::net::Shutdown::Write).expect("it is open");
    let mut rest = Vec::new();
    // Answers, or a connection that was cut.
    let _ = (&stream).read_to_end(&mut rest);
    let result = end.join().expect("it ends by its own will, never by a panic");
    assert!(result.as_ref().err().is_none_or(|why| !why.to_string().is_empty()), "{result:?}");
}

#[test]
fn messages_that_make_no_sense_end_the_daemon_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let all = u64::MAX;
    let nonsense = [
        vec![0xff; 200],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        message(99, &[]),
        message(SET_MEM_TABLE, &[])[..7].to_vec(),
        message(SET_MEM_TABLE, &[all, all]),
        // A region without its descriptor.
        message(SET_MEM_TABLE, &[1, 0, 1 << 20, 1 << 30, 0]),
        message(SET_VRING_NUM, &[pair(77, 64)]),
        message(SET_VRING_NUM, &[pair(0, 1 << 31)]),
        message(SET_VRING_NUM, &[pair(0, 3)]),
        // A ring in memory that there is not.
        message(SET_VRING_ADDR, &[pair(1, 0), 1 << 40, 1 << 41, 1 << 42, 0]),
        message(SET_VRING_BASE, &[pair(1, u32::MAX)]),
        message(GET_VRING_BASE, &[pair(u32::MAX, 0)]),
        message(SET_VRING_ENABLE, &[pair(1, 77)]),
        message(SET_VRING_KICK, &[1 << 8 | 200]),
    ];
    for bytes in nonsense {
        let (mut stream, end) = greeted(dir.path());
        // It may be gone before all has been said.
        let _ = stream.write_all(&bytes);
        ends(stream, end);
    }
}

#[test]
fn descriptors_that_are_no_memory_are_no_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = std::io::pipe().expect("a pipe");
    let folder = std::fs::File::open(dir.path()).expect("a folder");
    let null = std::fs::File::open("/dev/null").expect("it is there");
    for file in [pipe.0.as_raw_fd(), folder.as_raw_fd(), null.as_raw_fd()] {
        let (stream, end) = greeted(dir.path());
        let table = message(SET_MEM_TABLE, &[1, 0, 1 << 20, 1 << 30, 0]);
        stream.send_with_fd(&table[..], file).expect("sent");
        ends(stream, end);
    }
}

#[test]
fn a_ring_outside_of_memory_is_not_worked() {
    let dir = tempfile::tempdir().expect("a folder");
    let ram = devices::testing::ram();
    let file = {
        use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};
        let memory = ram.memory();
        let region = memory.iter().next().expect("memory");
        region.file_offset().expect("a file").file().try_clone().expect("a descriptor")
    };
    let kick = vmm_sys_util::eventfd::EventFd::new(0).expect("an eventfd");
    // One page of memory; rings at its end, past it, and where addresses wrap.
    for at in [(1 << 30) + 4096 - 8, (1 << 30) + 4096, u64::MAX - 15] {
        let (mut stream, end) = greeted(dir.path());
        let table = message(SET_MEM_TABLE, &[1, 0, 4096, 1 << 30, 0]);
        stream.send_with_fd(&table[..], file.as_raw_fd()).expect("sent");
        let mut rest = message(SET_VRING_NUM, &[pair(1, 64)]);
        rest.extend(message(SET_VRING_ADDR, &[pair(1, 0), at & !15, at & !3, at & !1, 0]));
        let _ = stream.write_all(&rest);
        let _ = stream.send_with_fd(&message(SET_VRING_KICK, &[1])[..], kick.as_raw_fd());
        let _ = stream.write_all(&message(SET_VRING_ENABLE, &[pair(1, 1)]));
        kick.write(1).expect("kicked");
        ends(stream, end);
    }
}

#[test]
fn a_guest_that_makes_more_requests_than_its_ring_is_long_is_taken_no_more_of_them_than_that() {
    let (dir, ram, at) = (tempfile::tempdir().expect("a folder"), ram(), 0x1000_0000u64);
    let shared = Arc::new(shared(&options(dir.path(), &[])));
    // A pool without threads: what is handed to it stays.
    let (send, jobs) = channel();
    let backend = Backend {
        server: Server::new(shared.clone()),
        shared,
        memory: RwLock::new(Some(Memory::new((*ram.memory()).clone()).expect("memory"))),
        out: Default::default(),
        pool: Some(send),
    };
    let ring = <Ring as VringT<_>>::new(ram.clone(), 8).expect("a ring");
    ring.set_queue_size(8);
    ring.set_queue_info(at, at + 0x1000, at + 0x2000).expect("in memory");
    ring.set_queue_ready(true);
    let results: Vec<bool> = (1..=5u16)
        .map(|round| {
            ram.memory().write_obj(6 * round, GuestAddress(at + 0x1000 + 2)).expect("in memory");
            backend.drain(1, &ring).is_ok()
        })
        .collect();
    assert_eq!(results, [true, false, true, true, true], "found broken once, and left alone since");
    assert_eq!((jobs.try_iter().count(), backend.out[1].lock().count), (8, 8));
}

#[test]
fn who_stops_a_ring_waits_for_the_last_request_and_is_woken_by_it() {
    let out = Arc::new(Out::default());
    out.lock().count = 2;
    let waiting = out.clone();
    let stops = std::thread::spawn(move || waiting.wait_for_none());
    while !out.lock().is_awaited {
        std::thread::yield_now();
    }
    out.one_back();
    assert!(out.lock().is_awaited, "one is still out");
    out.one_back();
    stops.join().expect("it ended");
    assert!(!out.lock().is_awaited && out.lock().count == 0);
}
