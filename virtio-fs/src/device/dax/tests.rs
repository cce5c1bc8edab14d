//! Daemons that map files, and some that try what they must not.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use devices::confine::Confinement;
use devices::shared_memory::GRAIN;
use devices::testing::conformance::conforms;
use devices::testing::{Driver, Over, REGION, until};
use devices::virtio::VirtioDevice;
use devices::virtio::spec::feature;

use super::super::tests::{
    self, BACKEND_REQ, GET_VRING_BASE, GETATTR, MQ, REPLY_ACK, SET_BACKEND_REQ_FD, SET_VRING_ENABLE, agree,
    receive_with_file, share,
};
use super::super::{Fs, FsError, Share};

const SHMEM: u64 = 1 << 22;
const GET_SHMEM_CONFIG: u32 = 44;
const MAP: u32 = 9;
const UNMAP: u32 = 10;
const LEN: u64 = 4 * GRAIN;

fn device(stream: UnixStream) -> Result<Fs, FsError> {
    Fs::from_socket(Share { dax: true, ..share() }, stream, &Confinement::none())
}

/// Sends what a daemon asks for; whether it was done.
fn ask(channel: &mut UnixStream, request: u32, numbers: [u64; 5], file: &File) -> bool {
    tests::demand(channel, request, numbers, (request == MAP).then_some(file)) == 0
}

/// What a daemon does with its channel.
type Deed = Box<dyn Fn(&mut UnixStream) + Send>;

/// A daemon with a window of `len` bytes that does the first deed when it has the rings, and the second in the midst of the
/// stop, before it gives the first ring back.
fn mapping(len: u64, at_start: Deed, at_stop: Deed) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    std::thread::spawn(move || {
        let (mut channel, mut rings, mut given_back) = (None, 0, 0);
        while let Some((request, flags, _, file)) = receive_with_file(&mut theirs) {
            match request {
                SET_BACKEND_REQ_FD => channel = file.map(UnixStream::from),
                GET_SHMEM_CONFIG => {
                    tell_len(&mut theirs, len);
                    continue;
                }
                GET_VRING_BASE => {
                    (rings, given_back) = (0, given_back + 1);
                    if given_back % 2 == 1 {
                        at_stop(channel.as_mut().expect("a way to ask"));
                    }
                }
                // Switched on, not off: those are counted from 0 again when they are asked back.
                _ => rings += usize::from(request == SET_VRING_ENABLE),
            }
            agree(&mut theirs, request, flags, REPLY_ACK | MQ | BACKEND_REQ | SHMEM);
            if (request, rings) == (SET_VRING_ENABLE, 2) {
                at_start(channel.as_mut().expect("a way to ask"));
            }
        }
    });
    ours
}

/// One that offers a window and does not wait for answers.
fn hasty() -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    std::thread::spawn(move || {
        while let Some((request, flags, ..)) = receive_with_file(&mut theirs) {
            match request {
                GET_SHMEM_CONFIG => tell_len(&mut theirs, LEN),
                _ => agree(&mut theirs, request, flags, MQ | BACKEND_REQ | SHMEM),
            }
        }
    });
    ours
}

fn nothing() -> Deed {
    Box::new(|_| ())
}

/// The answer to GET_SHMEM_CONFIG: one region, and room for the lengths of 256.
fn tell_len(stream: &mut UnixStream, len: u64) {
    let body: u32 = 8 + 8 * 256;
    let mut bytes: Vec<u8> =
        [GET_SHMEM_CONFIG, 5, body, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend(len.to_ne_bytes());
    bytes.resize(12 + body as usize, 0);
    // The device may have hung up.
    let _ = stream.write_all(&bytes);
}

/// A file of a grain whose first bytes say that it is there.
fn file() -> File {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(GRAIN).expect("a length");
    file.write_all_at(b"here", 0).expect("written");
    file
}

/// The first bytes of the window's piece `n`, by way of the kernel.
fn seen(addresses: &std::ops::Range<u64>, n: u64) -> [u8; 4] {
    let memory = File::open("/proc/self/mem").expect("it is there");
    let mut bytes = [0; 4];
    memory.read_exact_at(&mut bytes, addresses.start + n * GRAIN).expect("something is there");
    bytes
}

#[test]
fn a_device_with_a_window_keeps_the_rules_of_virtio() {
    conforms(|| {
        Box::new(device(mapping(LEN, nothing(), nothing())).expect("a device")) as Box<dyn VirtioDevice>
    });
}

#[test]
fn with_a_daemon_of_ours_the_window_is_as_long_as_it_says() {
    let dir = tempfile::tempdir().expect("a folder");
    conforms(|| {
        let stream = crate::daemon::testing::daemon(dir.path(), &["--dax-window=8M"]);
        let device = device(stream).expect("a device");
        assert_eq!(device.shared_memory().expect("a region").len(), 8 << 20);
        Box::new(device) as Box<dyn VirtioDevice>
    });
}

#[test]
fn files_are_there_when_the_daemon_is_told_so_and_gone_after_a_reset() {
    for over in [Over::Mmio, Over::Pci] {
        let deed = |channel: &mut UnixStream| {
            assert!(ask(channel, MAP, [0, 0, GRAIN, GRAIN, 1], &file()));
            assert!(ask(channel, MAP, [0, 0, 2 * GRAIN, GRAIN, 0], &file()));
            assert!(ask(channel, UNMAP, [0, 0, 2 * GRAIN, 2 * GRAIN, 0], &file()));
            assert!(ask(channel, MAP, [0, 0, 3 * GRAIN, GRAIN, 0], &file()));
        };
        let device = device(mapping(LEN, Box::new(deed), nothing())).expect("a device");
        let addresses = device.shared_memory().expect("a region").addresses();
        let mut driver = Driver::new(Box::new(device), over);
        for _ in 0..3 {
            driver.start(feature::COMMON);
            assert_eq!(driver.regions.list(), [REGION]);
            until("all is mapped", || seen(&addresses, 3) == *b"here");
            assert_eq!([0, 1, 2].map(|n| seen(&addresses, n)), [[0; 4], *b"here", [0; 4]]);
            driver.set_status(0);
            assert_eq!([1, 3].map(|n| seen(&addresses, n)), [[0; 4]; 2]);
        }
    }
}

#[test]
fn a_daemon_that_asks_while_it_is_stopped_is_answered() {
    let (started, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (starts, stops) = (started.clone(), stopped.clone());
    let at_start = move |_: &mut UnixStream| {
        starts.fetch_add(1, Ordering::Relaxed);
    };
    let at_stop = move |channel: &mut UnixStream| {
        assert!(ask(channel, MAP, [0, 0, 0, GRAIN, 1], &file()));
        assert!(!ask(channel, MAP, [0, 0, LEN, GRAIN, 1], &file()));
        stops.fetch_add(1, Ordering::Relaxed);
    };
    let device = device(mapping(LEN, Box::new(at_start), Box::new(at_stop))).expect("a device");
    let addresses = device.shared_memory().expect("a region").addresses();
    let mut driver = Driver::new(Box::new(device), Over::Pci);
    for round in 1..4 {
        driver.start(feature::COMMON);
        until("the daemon has the rings", || started.load(Ordering::Relaxed) == round);
        driver.set_status(0);
        assert_eq!(stopped.load(Ordering::Relaxed), round, "it was answered, or the stop would not be over");
        assert_eq!(seen(&addresses, 0), [0; 4], "mapped, and taken away after");
    }
}

#[test]
fn mappings_that_the_guest_must_not_see_are_refused_and_the_device_works_on() {
    let deed = |channel: &mut UnixStream| {
        let zero = File::open("/dev/zero").expect("it is there");
        for wrong in [
            [0, 0, LEN, GRAIN, 0],
            [0, 0, LEN - GRAIN, 2 * GRAIN, 0],
            [0, 0, 0, LEN + GRAIN, 0],
            [0, 0, u64::MAX - GRAIN + 1, GRAIN, 0],
            [0, 0, 4096, GRAIN, 0],
            [0, 0, 0, 0, 0],
            [0, 1, 0, GRAIN, 0],
            [0, u64::MAX - 4095, 0, GRAIN, 0],
            [1, 0, 0, GRAIN, 0],
            [0, 0, 0, GRAIN, 3],
        ] {
            assert!(!ask(channel, MAP, wrong, &file()), "{wrong:x?}");
        }
        assert!(!ask(channel, MAP, [0, 0, 0, GRAIN, 1], &zero), "a device");
        assert!(!ask(channel, UNMAP, [0, 0, LEN, GRAIN, 0], &zero));
        assert!(!ask(channel, 2, [0; 5], &zero), "another request");
        assert!(ask(channel, MAP, [0, 0, 0, GRAIN, 1], &file()), "and one that may be");
    };
    let device = device(mapping(LEN, Box::new(deed), nothing())).expect("a device");
    let addresses = device.shared_memory().expect("a region").addresses();
    let mut driver = Driver::new(Box::new(device), Over::Mmio);
    driver.start(feature::COMMON);
    until("the last is mapped", || seen(&addresses, 0) == *b"here");
    assert_eq!([1, 2, 3].map(|n| seen(&addresses, n)), [[0; 4]; 3]);
}

#[test]
fn a_channel_that_breaks_the_rules_is_closed_and_nobody_waits_for_an_answer() {
    let (tell, told) = std::sync::mpsc::channel();
    let deed = move |channel: &mut UnixStream| {
        // Longer than any message, and a reader that waits.
        channel.write_all(&[9u32, 9, 1 << 20].map(u32::to_ne_bytes).concat()).expect("sent");
        tell.send(channel.read(&mut [0; 20]).expect("an end")).expect("heard");
    };
    let device = device(mapping(LEN, Box::new(deed), nothing())).expect("a device");
    let mut driver = Driver::new(Box::new(device), Over::Pci);
    driver.start(feature::COMMON);
    assert_eq!(told.recv(), Ok(0));
    driver.set_status(0);
}

#[test]
fn a_daemon_that_floods_its_channel_holds_up_no_reset() {
    let deed = |channel: &mut UnixStream| {
        let mut theirs = channel.try_clone().expect("a clone");
        std::thread::spawn(move || {
            let many = [2u32, 1, 0].map(u32::to_ne_bytes).concat().repeat(1000);
            while theirs.write_all(&many).is_ok() {}
        });
    };
    let mut driver =
        Driver::new(Box::new(device(mapping(LEN, Box::new(deed), nothing())).expect("a device")), Over::Pci);
    for _ in 0..3 {
        driver.start(feature::COMMON);
        std::thread::sleep(std::time::Duration::from_millis(20));
        driver.set_status(0);
    }
}

#[test]
fn what_is_mapped_outlives_a_daemon_that_dies_until_the_reset() {
    let deed = |channel: &mut UnixStream| {
        assert!(ask(channel, MAP, [0, 0, 0, GRAIN, 1], &file()));
        panic!("as a daemon dies");
    };
    let device = device(mapping(LEN, Box::new(deed), nothing())).expect("a device");
    let addresses = device.shared_memory().expect("a region").addresses();
    let mut driver = Driver::new(Box::new(device), Over::Pci);
    driver.start(feature::COMMON);
    tests::ask(&mut driver, 1, (GETATTR, 7), 0x2000);
    assert_eq!(tests::reply(&mut driver, 1, 0x2000).1, -libc::ENOTCONN);
    assert_eq!(seen(&addresses, 0), *b"here");
    driver.set_status(0);
    assert_eq!(seen(&addresses, 0), [0; 4]);
}

#[test]
fn a_window_that_cannot_be_is_told_with_its_length_and_none_with_what_to_do() {
    for len in [GRAIN - 1, 3 * GRAIN, 64 << 30, u64::MAX] {
        let refused = device(mapping(len, nothing(), nothing())).expect_err("no window").to_string();
        assert!(refused.contains(&format!("a window of {len} bytes")), "{refused}");
    }
    let hasty = hasty();
    assert!(matches!(device(hasty), Err(FsError::NoWindow { .. })), "it does not wait for answers");
    let none = device(mapping(0, nothing(), nothing())).expect_err("no window").to_string();
    assert!(none.contains("start kiwi-virtiofsd with --dax-window=SIZE"), "{none}");
    let dir = tempfile::tempdir().expect("a folder");
    let stream = crate::daemon::testing::daemon(dir.path(), &[]);
    assert!(matches!(device(stream), Err(FsError::NoWindow { .. })));
}

#[test]
fn a_daemon_that_comes_back_with_another_window_is_lost() {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("fs.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let met = Arc::new(AtomicUsize::new(0));
    let count = met.clone();
    std::thread::spawn(move || {
        for (stream, len) in listener.incoming().zip([LEN, 2 * LEN]) {
            let mut theirs = stream.expect("a connection");
            while let Some((request, flags, ..)) = receive_with_file(&mut theirs) {
                match request {
                    GET_SHMEM_CONFIG => {
                        count.fetch_add(1, Ordering::Relaxed);
                        tell_len(&mut theirs, len);
                    }
                    SET_VRING_ENABLE => break,
                    _ => agree(&mut theirs, request, flags, REPLY_ACK | MQ | BACKEND_REQ | SHMEM),
                }
            }
        }
    });
    let device = Fs::connect(Share { dax: true, ..share() }, &path, &Confinement::none()).expect("a device");
    let mut driver = Driver::new(Box::new(device), Over::Pci);
    for unique in [7, 8] {
        driver.start(feature::COMMON);
        tests::ask(&mut driver, 1, (GETATTR, unique), 0x2000);
        let (_, error, answered) = tests::reply(&mut driver, 1, 0x2000);
        assert_eq!((error, answered), (-libc::ENOTCONN, unique));
        driver.set_status(0);
    }
    assert_eq!(met.load(Ordering::Relaxed), 2);
}
