//! A VMM that does not keep to vhost-user: it loses its daemon, and no more happens.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use devices::testing::{Buffer, ram};
use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::super::testing::{Asked, End, Vmm, daemon_and_end, options, shared};
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

const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_SHMEM_CONFIG: u32 = 44;
/// MQ, REPLY_ACK, CONFIGURE_MEM_SLOTS, and what a window takes: BACKEND_REQ, SHMEM.
const USUAL: u64 = 1 | 1 << 3 | 1 << 15;
const FOR_WINDOW: u64 = 1 << 5 | 1 << 22;

/// An answer's body.
fn answer(stream: &UnixStream, request: u32) -> Vec<u8> {
    let mut head = [0; 12];
    { stream }.read_exact(&mut head).expect("an answer");
    let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((word(0), word(4)), (request, 1 | 4));
    let mut body = vec![0; word(8) as usize];
    { stream }.read_exact(&mut body).expect("the rest");
    body
}

#[test]
fn a_window_is_offered_and_told_of_where_there_is_one() {
    let dir = tempfile::tempdir().expect("a folder");
    for (words, features, regions) in
        [(&[][..], USUAL, [0, 0, 0]), (&["--dax-window=8M"], USUAL | FOR_WINDOW, [1, 8 << 20, 0])]
    {
        let (mut stream, end) = daemon_and_end(dir.path(), words);
        // Asked for or not, there is nothing to be had of a daemon without.
        for (request, words) in [
            (SET_OWNER, &[][..]),
            (SET_FEATURES, &[1 << 32 | 1 << 30]),
            (SET_PROTOCOL_FEATURES, &[USUAL | FOR_WINDOW]),
            (GET_PROTOCOL_FEATURES, &[]),
        ] {
            stream.write_all(&message(request, words)).expect("sent");
        }
        assert_eq!(answer(&stream, GET_PROTOCOL_FEATURES), features.to_ne_bytes());
        stream.write_all(&message(GET_SHMEM_CONFIG, &[])).expect("sent");
        let body = answer(&stream, GET_SHMEM_CONFIG);
        assert_eq!(body[..24], regions.map(u64::to_ne_bytes).concat());
        let (channel, _theirs) = UnixStream::pair().expect("a channel");
        stream.send_with_fd(&message(SET_BACKEND_REQ_FD, &[])[..], channel.as_raw_fd()).expect("sent");
        ends(stream, end);
    }
}

/// A daemon with a window whose guest has asked for a piece of a file, which the VMM has not answered yet.
struct Waiting {
    stream: UnixStream,
    end: End,
    channel: UnixStream,
    asked: Asked,
    ring: devices::testing::Ring,
    _dir: tempfile::TempDir,
}

/// Of the guest's addresses as the VMM's.
const OURS: u64 = 1 << 40;

impl Waiting {
    fn new(words: &[&str]) -> Self {
        let (dir, ram) = (tempfile::tempdir().expect("a folder"), ram());
        std::fs::write(dir.path().join("file"), "content").expect("a file");
        let (mut stream, end) = daemon_and_end(dir.path(), &[&["--dax-window=8M"], words].concat());
        let mut say = |request, words: &[u64]| stream.write_all(&message(request, words)).expect("sent");
        say(SET_OWNER, &[]);
        say(SET_FEATURES, &[1 << 32 | 1 << 30]);
        say(SET_PROTOCOL_FEATURES, &[USUAL | FOR_WINDOW]);
        let (channel, theirs) = UnixStream::pair().expect("a channel");
        channel.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("set");
        stream.send_with_fd(&message(SET_BACKEND_REQ_FD, &[])[..], theirs.as_raw_fd()).expect("sent");
        drop(theirs);
        share(&stream, &ram);
        let mut ring = devices::testing::Ring::new(&ram, 64, 0x1000_0000);
        let layout = ring.layout;
        let kick = vmm_sys_util::eventfd::EventFd::new(0).expect("an eventfd");
        let mut say = |request, words: &[u64]| stream.write_all(&message(request, words)).expect("sent");
        say(SET_VRING_NUM, &[pair(1, 64)]);
        say(SET_VRING_BASE, &[pair(1, 0)]);
        let [desc, avail, used] = [layout.desc, layout.avail, layout.used].map(|at| at + OURS);
        say(SET_VRING_ADDR, &[pair(1, 0), desc, used, avail, 0]);
        stream.send_with_fd(&message(SET_VRING_KICK, &[1])[..], kick.as_raw_fd()).expect("sent");
        stream.write_all(&message(SET_VRING_ENABLE, &[pair(1, 1)])).expect("sent");
        // LOOKUP, whose node is the first after the root; SETUPMAPPING.
        let piece = [u64::MAX, 0, 2 << 20, 2, 4 << 20].map(u64::to_le_bytes).concat();
        for (operation, node, body) in [(1_u32, 1_u64, b"file\0".to_vec()), (48, 2, piece)] {
            let len = 40 + u32::try_from(body.len()).expect("small");
            let head = [pair(len, operation), 1, node, 0, 1].map(u64::to_le_bytes).concat();
            ram.memory().write_slice(&[head, body].concat(), GuestAddress(0x1000)).expect("in memory");
            let reply = Buffer { at: 0x2000, len: 0x1000, writable: true };
            ring.add(&[Buffer { at: 0x1000, len, writable: false }, reply]);
            kick.write(1).expect("kicked");
            if operation == 1 {
                assert_eq!(ring.wait().written, 16 + 128);
            }
        }
        let asked = Vmm::next(&channel).expect("asked");
        assert_eq!((asked.request, asked.at, asked.len), (9, 4 << 20, 2 << 20));
        Self { stream, end, channel, asked, ring, _dir: dir }
    }
}

/// Gives the daemon the guest's memory.
fn share(stream: &UnixStream, ram: &devices::memory::GuestRam) {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let (mut table, mut files) = (vec![0], Vec::new());
    let memory = ram.memory();
    for region in memory.iter() {
        let part = region.file_offset().expect("a file");
        let at = region.start_addr().0;
        table.extend([at, region.len(), at + OURS, part.start()]);
        files.push(part.file().as_raw_fd());
    }
    table[0] = files.len() as u64;
    stream.send_with_fds(&[&message(SET_MEM_TABLE, &table)[..]], &files).expect("sent");
}

#[test]
fn a_request_that_waits_for_the_vmm_keeps_no_daemon_alive_whose_vmm_has_hung_up() {
    for words in [&[][..], &["--thread-pool-size=2"]] {
        let Waiting { stream, end, channel, .. } = Waiting::new(words);
        drop(stream);
        assert!(end.join().expect("no panic").is_ok(), "the channel is open, and nobody answers");
        drop(channel);
    }
}

#[test]
fn a_ring_is_stopped_when_the_vmm_has_answered_or_closed_the_channel() {
    for (words, answered) in [(&[][..], true), (&[], false), (&["--thread-pool-size=2"], true)] {
        let Waiting { mut stream, end, channel, asked, mut ring, _dir } = Waiting::new(words);
        stream.write_all(&message(GET_VRING_BASE, &[pair(1, 0)])).expect("sent");
        stream.set_nonblocking(true).expect("set");
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(stream.read(&mut [0]).is_err(), "the request is out");
        stream.set_nonblocking(false).expect("set");
        if answered {
            { &channel }.write_all(&asked.answer(0)).expect("answered");
        } else {
            drop(channel);
        }
        assert_eq!(answer(&stream, GET_VRING_BASE), pair(1, 2).to_ne_bytes());
        assert_eq!(ring.used().map(|used| used.written), Some(16), "the request is back");
        ends(stream, end);
    }
}
