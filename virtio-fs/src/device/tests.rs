//! The device with a daemon that is as it should be, and with some that are not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use devices::confine::Confinement;
use devices::testing::conformance::conforms;
use devices::testing::{Buffer, Driver, Over};
use devices::virtio::VirtioDevice;
use devices::virtio::spec::{feature, status};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::{Fs, FsError, Share};

fn share() -> Share {
    Share { tag: "src".to_owned(), queues: 1, queue_size: 64 }
}

fn device(stream: UnixStream) -> Result<Fs, FsError> {
    Fs::from_socket(share(), stream, &Confinement::none())
}

const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const REPLY_ACK: u64 = 8;
const MQ: u64 = 1;

/// One message: request, flags, body. `None` at the end.
fn receive(stream: &mut UnixStream) -> Option<(u32, u32, Vec<u8>)> {
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let mut body = vec![0; word(8) as usize];
    stream.read_exact(&mut body).ok()?;
    Some((word(0), word(4), body))
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
            match request {
                GET_FEATURES => answer(&mut theirs, request, feature::COMMON | 1 << 30),
                GET_PROTOCOL_FEATURES => answer(&mut theirs, request, REPLY_ACK | MQ),
                GET_QUEUE_NUM => answer(&mut theirs, request, 4),
                GET_VRING_BASE => answer(&mut theirs, request, 0),
                _ if flags & 8 != 0 => answer(&mut theirs, request, 0),
                _ => {}
            }
        }
        theirs
    });
    (ours, thread)
}

/// The FUSE request `operation` number `unique`, with room for a reply, in the queue `queue`.
fn ask(driver: &mut Driver, queue: usize, (operation, unique): (u32, u64), at: u64) {
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
fn reply(driver: &mut Driver, queue: usize, at: u64) -> (u32, i32, u64) {
    let used = driver.rings[queue].wait();
    let bytes: [u8; 16] = driver.ram.memory().read_obj(GuestAddress(at + 64)).expect("in memory");
    let error = i32::from_le_bytes(bytes[4..8].try_into().expect("four bytes"));
    (used.written, error, u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes")))
}

const GETATTR: u32 = 3;
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
        let (stream, thread) = idle(|request, count| request == SET_VRING_ENABLE && count == 3);
        let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
        driver.start(feature::COMMON);
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
        let (stream, thread) = idle(|request, count| request == SET_VRING_ENABLE && count == 2);
        let mut driver = Driver::new(Box::new(device(stream).expect("a device")), over);
        // In the ring before the daemon has it; it then says nothing to the last message and hangs up.
        driver.negotiate(feature::COMMON);
        driver.set_up_queues();
        ask(&mut driver, 1, (GETATTR, 7), 0x2000);
        ask(&mut driver, 1, (GETATTR, 8), 0x3000);
        driver.drive();
        drop(thread.join().expect("it ended"));
        let first = reply(&mut driver, 1, 0x2000);
        let second = reply(&mut driver, 1, 0x3000);
        assert_eq!([first, second], [(GONE.0, GONE.1, 7), (GONE.0, GONE.1, 8)]);
        ask(&mut driver, 1, (GETATTR, 9), 0x2000);
        assert_eq!(reply(&mut driver, 1, 0x2000), (GONE.0, GONE.1, 9));
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
