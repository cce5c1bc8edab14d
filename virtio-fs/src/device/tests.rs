//! The device with a daemon that is as it should be, and with some that are not.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use devices::confine::Confinement;
use devices::testing::conformance::conforms;
use devices::testing::{Buffer, Driver, Over, until};
use devices::virtio::VirtioDevice;
use devices::virtio::spec::{feature, status};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::{Fs, FsError, Share};

pub(super) fn share() -> Share {
    Share { tag: "src".to_owned(), queues: 1, queue_size: 64, dax: false }
}

fn device(stream: UnixStream) -> Result<Fs, FsError> {
    Fs::from_socket(share(), stream, &Confinement::none())
}

const GET_FEATURES: u32 = 1;
pub(super) const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_KICK: u32 = 12;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const SET_BACKEND_REQ_FD: u32 = 21;
pub(super) const REPLY_ACK: u64 = 8;
pub(super) const MQ: u64 = 1;
pub(super) const BACKEND_REQ: u64 = 1 << 5;

/// One message: request, flags, body. `None` at the end.
fn receive(stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>)> {
    receive_with_file(stream).map(|(request, flags, body, _)| (request, flags, body))
}

pub(super) fn receive_with_file(stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>, Option<OwnedFd>)> {
    let mut head = [0; 12];
    // A header comes whole: it was sent as one.
    let (12, file) = stream.recv_with_fd(&mut head).ok()? else { return None };
    let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let mut body = vec![0; word(8) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((word(0), word(4), body, file.map(Into::into)))
}

fn answer(stream: &mut UnixStream, request: u32, value: u64) {
    let mut bytes: Vec<u8> = [request, 5, 8].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    bytes.extend(value.to_ne_bytes());
    // The device may have hung up.
    let _ = stream.write_all(&bytes);
}

/// A daemon that says yes to everything and works no queue, until `end` of a message and how often it came.
fn idle(end: impl Fn(u32, usize) -> bool + Send + 'static) -> (UnixStream, JoinHandle<UnixStream>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || {
        let mut counts = std::collections::HashMap::new();
        while let Some((request, flags, _)) = receive(&mut theirs) {
            let count = counts.entry(request).or_insert(0usize);
            *count += 1;
            if end(request, *count) {
                return theirs;
            }
            agree(&mut theirs, request, flags, REPLY_ACK | MQ);
        }
        theirs
    });
    (ours, thread)
}

/// Says yes to a message.
pub(super) fn agree(stream: &mut UnixStream, request: u32, flags: u32, protocol: u64) {
    match request {
        GET_FEATURES => answer(stream, request, feature::COMMON | 1 << 30),
        GET_PROTOCOL_FEATURES => answer(stream, request, protocol),
        GET_QUEUE_NUM => answer(stream, request, 4),
        GET_VRING_BASE => answer(stream, request, 0),
        _ if flags & 8 != 0 => answer(stream, request, 0),
        _ => {}
    }
}

/// The FUSE request `operation` number `unique`, with room for a reply, in the queue `queue`.
pub(super) fn ask(driver: &mut Driver, queue: usize, (operation, unique): (u32, u64), at: u64) {
    let mut head = 40u32.to_le_bytes().to_vec();
    head.extend(operation.to_le_bytes());
    head.extend(unique.to_le_bytes());
    head.resize(40, 0);
    let ram = driver.ram.memory();
    ram.write_slice(&head, GuestAddress(at)).expect("in memory");
    ram.write_slice(&[0; 64], GuestAddress(at + 64)).expect("in memory");
    let buffers = [Buffer { at, len: 40, writable: false }, Buffer { at: at + 64, len: 64, writable: true }];
    driver.rings[queue].add(&buffers);
    driver.notify(u16::try_from(queue).expect("small"));
}

/// Waits for the reply to the request at `at`: its error and its number.
pub(super) fn reply(driver: &mut Driver, queue: usize, at: u64) -> (u32, i32, u64) {
    let used = driver.rings[queue].wait();
    let (error, unique) = replied(driver, at);
    (used.written, error, unique)
}

/// What stands where the reply to the request at `at` is to be.
fn replied(driver: &Driver, at: u64) -> (i32, u64) {
    let bytes: [u8; 16] = driver.ram.memory().read_obj(GuestAddress(at + 64)).expect("in memory");
    let error = i32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
    (error, u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes")))
}

pub(super) const GETATTR: u32 = 3;
const READLINK: u32 = 5;
const GONE: (u32, i32) = (16, -libc::ENOTCONN);

#[test]
fn fs_keeps_the_rules_of_virtio_with_a_daemon_of_ours() {
    let dir = tempfile::tempdir().expect("a folder");
    conforms(|| {
        let stream = crate::daemon::testing::daemon(dir.path(), &[]);
        Box::new(device(stream).expect("a device")) as Box<dyn VirtioDevice>
    });
}

#[test]
fn requests_reach_the_daemon_over_both_transports() {
    let dir = tempfile::tempdir().expect("a folder");
    for over in [Over::Mmio, Over::Pci] {
        for words in [&[][..], &["--thread-pool-size=4"]] {
            let stream = crate::daemon::testing::daemon(dir.path(), words);
            let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
            driver.start(feature::COMMON);
            let config = driver.config(0, 40);
            assert_eq!((&config[..4], &config[36..]), (&b"src\0"[..], &[1, 0, 0, 0][..]));
            // Where a node that is none leads.
            for unique in 1..40 {
                ask(&mut driver, 1, (READLINK, unique), 0x2000);
                assert_eq!(reply(&mut driver, 1, 0x2000), (16, -libc::ESTALE, unique), "{over:?}");
            }
        }
    }
}

#[test]
fn a_daemon_that_ends_leaves_errors_and_no_request_hangs() {
    for over in [Over::Mmio, Over::Pci] {
        let switched_on = Arc::new(AtomicUsize::new(0));
        let seen = switched_on.clone();
        let (stream, thread) = idle(move |request, count| {
            if request == SET_VRING_ENABLE {
                seen.store(count, Ordering::Relaxed);
            }
            request == SET_VRING_ENABLE && count == 3
        });
        let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
        driver.start(feature::COMMON);
        // A reset before that would ask nothing of it.
        until("the daemon has the rings", || switched_on.load(Ordering::Relaxed) == 2);
        // Left with the daemon, which does nothing, and then is told to stop the first queue, at which it ends.
        ask(&mut driver, 1, (GETATTR, 7), 0x2000);
        ask(&mut driver, 1, (GETATTR, 8), 0x3000);
        drop(driver_hangup(&mut driver, thread));
        assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    }
}

/// Ends the daemon by a reset, starts anew without one, and sees every request answered.
fn driver_hangup(driver: &mut Driver, thread: JoinHandle<UnixStream>) -> UnixStream {
    driver.set_status(0);
    let stream = thread.join().expect("it ended");
    driver.start(feature::COMMON);
    for (queue, unique) in [(1, 21), (0, 22), (1, 23)] {
        ask(driver, queue, (GETATTR, unique), 0x4000);
        let (written, error, answered) = reply(driver, queue, 0x4000);
        assert_eq!(((written, error), answered), (GONE, unique));
    }
    // A request without a reply is given back, too.
    ask(driver, 0, (2, 24), 0x4000);
    assert_eq!(driver.rings[0].wait().written, 0);
    stream
}

#[test]
fn requests_that_a_daemon_took_and_died_with_are_answered() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = left_by_a_daemon(over, |_| ());
        // They come in any order, one after the other.
        for _ in 0..2 {
            assert_eq!(driver.rings[1].wait().written, GONE.0);
        }
        assert_eq!([replied(&driver, 0x2000), replied(&driver, 0x3000)], [(GONE.1, 7), (GONE.1, 8)]);
        ask(&mut driver, 1, (GETATTR, 9), 0x2000);
        assert_eq!(reply(&mut driver, 1, 0x2000), (GONE.0, GONE.1, 9));
    }
}

#[test]
fn a_request_that_leads_outside_of_memory_is_answered_without_a_daemon() {
    let mut driver = left_by_a_daemon(Over::Pci, |_| ());
    let at = 0x4000;
    let head =
        [[40u32, GETATTR].map(u32::to_le_bytes).concat(), 9u64.to_le_bytes().to_vec(), vec![0; 24]].concat();
    driver.ram.memory().write_slice(&head, GuestAddress(at)).expect("in memory");
    driver.rings[1].add(&[
        Buffer { at, len: 40, writable: false },
        Buffer { at: at + 64, len: 16, writable: true },
        Buffer { at: 0x20_0000, len: 4096, writable: true },
    ]);
    driver.notify(1);
    for _ in 0..3 {
        driver.rings[1].wait();
    }
    assert_eq!(replied(&driver, at), (GONE.1, 9));
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}

/// A driver over `over`, that has asked two things of a daemon when `meanwhile` happens and the daemon dies.
fn left_by_a_daemon(over: Over, meanwhile: impl Fn(&Driver)) -> Driver {
    let (stream, thread) = idle(|request, count| request == SET_VRING_ENABLE && count == 2);
    let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
    // In the ring before the daemon has it; it then says nothing to the last message and hangs up.
    driver.negotiate(feature::COMMON);
    driver.set_up_queues();
    ask(&mut driver, 1, (GETATTR, 7), 0x2000);
    ask(&mut driver, 1, (GETATTR, 8), 0x3000);
    meanwhile(&driver);
    driver.drive();
    drop(thread.join().expect("it ended"));
    driver
}

/// What a daemon does to serve the request `unique` at `at`, short of giving it back.
fn serve(driver: &Driver, unique: u64, at: u64) {
    driver
        .ram
        .memory()
        .write_obj([120u64.to_le(), unique.to_le()], GuestAddress(at + 64))
        .expect("in memory");
}

#[test]
fn a_request_that_a_daemon_served_and_did_not_give_back_is_answered() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = left_by_a_daemon(over, |driver| serve(driver, 7, 0x2000));
        // The one that nobody served, which was asked last, comes first.
        let heads = [driver.rings[1].wait(), driver.rings[1].wait()].map(|used| used.head);
        assert!(heads[0] > heads[1], "{heads:?}");
        for at in [0x2000, 0x3000] {
            let reply: [u32; 2] = driver.ram.memory().read_obj(GuestAddress(at + 64)).expect("in memory");
            assert_eq!(reply, [GONE.0, GONE.1.cast_unsigned()], "{over:?} {at:#x}");
        }
        ask(&mut driver, 1, (GETATTR, 9), 0x2000);
        assert_eq!(reply(&mut driver, 1, 0x2000), (GONE.0, GONE.1, 9));
    }
}

#[test]
fn an_interrupt_that_a_daemon_died_before_is_raised() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = left_by_a_daemon(over, |driver| {
            let (ram, used) = (driver.ram.memory(), driver.rings[1].layout.used);
            for (n, at) in [(0, 0x2000), (1, 0x3000)] {
                serve(driver, 7 + n, at);
                let head: u16 =
                    ram.read_obj(GuestAddress(driver.rings[1].layout.avail + 4 + 2 * n)).expect("in memory");
                ram.write_obj([u32::from(head), 16], GuestAddress(used + 4 + 8 * n)).expect("in memory");
            }
            ram.write_obj(2u16, GuestAddress(used + 2)).expect("in memory");
        });
        let mut raised = 0;
        until("the interrupt", || {
            raised += driver.interrupts(1);
            raised > 0
        });
    }
}

#[test]
fn a_daemon_that_hangs_up_mid_message_or_talks_nonsense_is_no_daemon() {
    for nonsense in
        [&b""[..], b"\x01\0\0\0\x05\0", &[0xff; 200], &[0; 20], b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        theirs.write_all(nonsense).expect("sent");
        drop(theirs);
        let refused = device(ours).expect_err("no daemon");
        assert!(matches!(refused, FsError::Daemon { .. }), "{refused}");
    }
}

/// What a daemon says in the place of an answer: nothing, half a header, half a reply, nonsense.
const NONSENSE: [&[u8]; 5] = [b"", b"\x01\0\0", b"\x01\0\0\0\x05\0\0\0\x08\0\0\0\0", &[0xff; 200], &[0; 20]];

/// How many messages a daemon gets until it serves.
fn messages() -> usize {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let (stream, thread) = idle(move |request, nth| {
        count.fetch_add(1, Ordering::Relaxed);
        request == SET_VRING_ENABLE && nth == 2
    });
    let mut driver = Driver::new(Box::new(device(stream).expect("a device")), Over::Pci);
    driver.start(feature::COMMON);
    drop(thread.join().expect("it ended"));
    seen.load(Ordering::Relaxed)
}

#[test]
fn a_daemon_that_breaks_off_at_any_message_leaves_errors_and_no_request_hangs() {
    let all = messages();
    assert!(all > 15, "{all} messages");
    for last in 1..=all {
        for (nonsense, over) in NONSENSE.into_iter().zip([Over::Mmio, Over::Pci].into_iter().cycle()) {
            let seen = AtomicUsize::new(0);
            let (stream, thread) = idle(move |_, _| seen.fetch_add(1, Ordering::Relaxed) + 1 == last);
            let end = std::thread::spawn(move || thread.join().expect("it ended").write_all(nonsense));
            match device(stream) {
                Err(refused) => assert!(matches!(refused, FsError::Daemon { .. }), "{refused}"),
                Ok(device) => {
                    let mut driver = Driver::new(Box::new(device), over);
                    driver.start(feature::COMMON);
                    ask(&mut driver, 1, (GETATTR, 7), 0x2000);
                    assert_eq!(reply(&mut driver, 1, 0x2000), (GONE.0, GONE.1, 7), "{last} {nonsense:?}");
                    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
                }
            }
            // It may have been too late for the device to hear it.
            let _ = end.join().expect("it ended");
        }
    }
}

#[test]
fn a_daemon_that_speaks_unasked_or_hangs_up_while_it_serves_is_lost() {
    for over in [Over::Mmio, Over::Pci] {
        for nonsense in NONSENSE {
            let (stream, thread) = idle(|request, count| request == SET_VRING_ENABLE && count == 2);
            let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
            driver.start(feature::COMMON);
            let mut theirs = thread.join().expect("it ended");
            answer(&mut theirs, SET_VRING_ENABLE, 0);
            // It has them now, and does nothing with them.
            ask(&mut driver, 1, (GETATTR, 7), 0x2000);
            theirs.write_all(nonsense).expect("sent");
            let hung_up = nonsense.is_empty().then(|| drop(theirs));
            assert_eq!(reply(&mut driver, 1, 0x2000), (GONE.0, GONE.1, 7), "{hung_up:?} {nonsense:?}");
        }
    }
}

/// A daemon that asks for this and that as soon as it has the rings; what it was told, and whether it went on.
fn demanding(requests: &'static [u32]) -> (UnixStream, Receiver<u64>, JoinHandle<bool>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let (mut channel, mut rings) = (None, 0);
        while let Some((request, flags, _, file)) = receive_with_file(&mut theirs) {
            if request == GET_VRING_BASE {
                return true;
            }
            if request == SET_BACKEND_REQ_FD {
                channel = file.map(UnixStream::from);
            }
            agree(&mut theirs, request, flags, REPLY_ACK | MQ | BACKEND_REQ);
            rings += usize::from(request == SET_VRING_ENABLE);
            // Not before the last ring is switched on: until then the device is busy talking.
            if (request, rings) == (SET_VRING_ENABLE, 2) {
                let channel = channel.as_mut().expect("a way to ask");
                requests
                    .iter()
                    .for_each(|request| tell.send(demand_nothing(channel, *request)).expect("heard"));
            }
        }
        false
    });
    (ours, told, thread)
}

/// Asks for something of five numbers, with a file if one comes with it, and gives the answer.
pub(super) fn demand(
    channel: &mut UnixStream,
    request: u32,
    numbers: [u64; 5],
    file: Option<&std::fs::File>,
) -> u64 {
    let mut bytes: Vec<u8> = [request, 1 | 8, 40].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    bytes.extend(numbers.iter().flat_map(|word| word.to_ne_bytes()));
    match file {
        Some(file) => {
            channel.send_with_fd(&bytes[..], std::os::fd::AsRawFd::as_raw_fd(file)).expect("sent");
        }
        None => channel.write_all(&bytes).expect("sent"),
    }
    let mut reply = [0; 20];
    channel.read_exact(&mut reply).expect("an answer");
    u64::from_ne_bytes(reply[12..].try_into().expect("eight bytes"))
}

/// Asks for a region that is not there, whatever the request takes for one, with a descriptor as one that maps has it.
fn demand_nothing(channel: &mut UnixStream, request: u32) -> u64 {
    let null = std::fs::File::open("/dev/null").expect("it is there");
    demand(channel, request, [u64::MAX - 4095; 5], Some(&null))
}

#[test]
fn a_daemon_that_asks_for_regions_that_are_not_there_is_told_no_and_works_on() {
    // A message of the TLB, a host notifier, shared objects, a mapping and its end.
    for (over, requests) in [(Over::Mmio, &[1, 3, 6, 8][..]), (Over::Pci, &[9, 10, 9, 77])] {
        let (stream, told, thread) = demanding(requests);
        let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
        driver.start(feature::COMMON);
        for request in requests {
            assert_ne!(told.recv(), Ok(0), "request {request}");
        }
        driver.set_status(0);
        assert!(thread.join().expect("it ended"), "it was asked for its rings back");
    }
}

#[test]
fn a_reset_that_comes_before_the_daemon_has_the_rings_asks_nothing_of_it() {
    const SET_VRING_ADDR: u32 = 9;
    let rings = AtomicIsize::new(0);
    // As many rings given as asked back, or more.
    let (stream, thread) = idle(move |request, _| match request {
        SET_VRING_ADDR => rings.fetch_add(1, Ordering::Relaxed) < 0,
        GET_VRING_BASE => rings.fetch_sub(1, Ordering::Relaxed) < 1,
        _ => false,
    });
    let mut driver = Driver::new(Box::new(device(stream).expect("a device")), Over::Pci);
    for _ in 0..200 {
        driver.start(feature::COMMON);
        driver.set_status(0);
        assert!(!thread.is_finished(), "it hung up, for it was asked for a ring that it had not");
    }
}

#[test]
fn a_daemon_with_too_few_features_or_queues_is_refused_by_name() {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || {
        while let Some((request, ..)) = receive(&mut theirs) {
            if request == GET_FEATURES {
                answer(&mut theirs, request, 0);
            }
        }
    });
    let refused = device(ours).expect_err("no daemon").to_string();
    assert!(refused.contains("lacks the virtio features"), "{refused}");
    thread.join().expect("it ended");
    let (ours, _thread) = idle(|_, _| false);
    let many = Share { queues: 8, ..share() };
    let refused = Fs::from_socket(many, ours, &Confinement::none()).expect_err("four queues").to_string();
    assert!(refused.contains("it has 4 queues, and 9 are wanted"), "{refused}");
}

#[test]
fn a_daemon_that_does_not_answer_is_waited_for_and_then_not() {
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let refused = device(ours).expect_err("no daemon").to_string();
    assert_eq!(refused, "the daemon of the share \"src\" cannot be used: it did not answer within 10 s");
}

/// A daemon that keeps the kicks, makes them blocking and fills them, and hangs up before it has the last ring.
fn keeping() -> (UnixStream, JoinHandle<Vec<OwnedFd>>) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || {
        let (mut kicks, mut rings) = (Vec::new(), 0);
        while let Some((request, flags, _, file)) = receive_with_file(&mut theirs) {
            kicks.extend(file.filter(|_| request == SET_VRING_KICK));
            rings += usize::from(request == SET_VRING_ENABLE);
            if rings == 2 {
                break;
            }
            agree(&mut theirs, request, flags, REPLY_ACK | MQ);
        }
        for kick in &kicks {
            fcntl(kick, FcntlArg::F_SETFL(OFlag::empty())).expect("its flags");
            nix::unistd::write(kick, &(u64::MAX - 1).to_ne_bytes()).expect("it is empty");
        }
        kicks
    });
    (ours, thread)
}

#[test]
fn a_daemon_that_keeps_the_kicks_and_blocks_them_holds_up_no_request_and_no_reset() {
    for over in [Over::Mmio, Over::Pci] {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (stream, thread) = keeping();
            let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
            driver.negotiate(feature::COMMON);
            driver.set_up_queues();
            ask(&mut driver, 1, (GETATTR, 7), 0x2000);
            driver.drive();
            let left = reply(&mut driver, 1, 0x2000);
            let kicks = thread.join().expect("it ended");
            driver.set_status(0);
            // Kicks of its own: the ones that are kept are as full as ever.
            driver.start(feature::COMMON);
            ask(&mut driver, 1, (GETATTR, 8), 0x2000);
            let _ = done.send((kicks.len(), left, reply(&mut driver, 1, 0x2000)));
        });
        let seen = ended.recv_timeout(std::time::Duration::from_secs(60)).expect("nothing waits for ever");
        assert_eq!(seen, (2, (GONE.0, GONE.1, 7), (GONE.0, GONE.1, 8)), "{over:?}");
    }
}
