use std::fs::File;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing::conformance::{conforms, needs_reset};
use crate::testing::{Buffer, Driver, Over, until};
use crate::virtio::spec::feature;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// Where requests lie: their status, header and data.
const STATUS: u64 = 0x800;
const HEADER: u64 = 0x1000;
const DATA: u64 = 0x2000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Ring,
    Plain,
}

const WAYS: [(By, Over); 4] =
    [(By::Ring, Over::Mmio), (By::Ring, Over::Pci), (By::Plain, Over::Mmio), (By::Plain, Over::Pci)];

fn image(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(bytes).expect("its size");
    file
}

fn open(image: &tempfile::NamedTempFile, options: &Options) -> Disk {
    Disk::open(image.path(), options).expect("a disk")
}

/// A device that serves by `by`; the ring is there on every kernel that these tests run on, or the test fails.
fn block(disk: Disk, queues: u16, rates: Rates, by: By) -> Block {
    let engine = |disk: &Disk| match by {
        By::Ring => Engine::Ring(Box::new(work_ring(disk))),
        By::Plain => Engine::Plain,
    };
    Block::with(disk, queues, rates, &Confinement::none(), engine).expect("threads")
}

fn work_ring(disk: &Disk) -> super::sys::Ring<crate::virtio::chain::Chain> {
    super::sys::Ring::new(&disk.file, QUEUE_SIZE).expect("a kernel with io_uring")
}

fn live(disk: Disk, by: By, over: Over) -> Driver {
    let mut driver = Driver::new(Box::new(block(disk, 1, Rates::default(), by)), over);
    driver.start(u64::MAX);
    driver
}

/// What a driver asks for beside type and sector.
enum Data<'a> {
    Out(&'a [u8]),
    In(u32),
}

fn offer(driver: &mut Driver, queue: u16, kind: u32, sector: u64, data: &Data<'_>) {
    let memory = driver.ram.memory();
    let mut header = kind.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(sector.to_le_bytes());
    memory.write_slice(&header, GuestAddress(HEADER)).expect("written");
    memory.write_obj(0xffu8, GuestAddress(STATUS)).expect("written");
    let (len, writable) = match data {
        Data::Out(bytes) => {
            memory.write_slice(bytes, GuestAddress(DATA)).expect("written");
            (bytes.len() as u32, false)
        }
        Data::In(len) => (*len, true),
    };
    let mut buffers = vec![Buffer { at: HEADER, len: 16, writable: false }];
    // In two pieces, of which the first is odd.
    let first = len.min(7);
    for (at, len) in [(DATA, first), (DATA + u64::from(first), len - first)] {
        if len > 0 {
            buffers.push(Buffer { at, len, writable });
        }
    }
    buffers.push(Buffer { at: STATUS, len: 1, writable: true });
    driver.rings[usize::from(queue)].add(&buffers);
}

fn begin(driver: &mut Driver, queue: u16, kind: u32, sector: u64, data: &Data<'_>) {
    offer(driver, queue, kind, sector, data);
    driver.notify(queue);
}

fn end(driver: &mut Driver, queue: u16, data: &Data<'_>) -> (u8, Vec<u8>) {
    let used = driver.rings[usize::from(queue)].wait();
    let memory = driver.ram.memory();
    let mut got = Vec::new();
    if let Data::In(len) = data {
        assert_eq!(used.written, len + 1);
        got.resize(*len as usize, 0);
        memory.read_slice(&mut got, GuestAddress(DATA)).expect("read");
    }
    (memory.read_obj(GuestAddress(STATUS)).expect("read"), got)
}

fn ask(driver: &mut Driver, kind: u32, sector: u64, data: Data<'_>) -> (u8, Vec<u8>) {
    begin(driver, 0, kind, sector, &data);
    end(driver, 0, &data)
}

fn status(driver: &mut Driver, kind: u32, sector: u64, data: Data<'_>) -> u8 {
    ask(driver, kind, sector, data).0
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut raw = sector.to_le_bytes().to_vec();
    raw.extend(sectors.to_le_bytes());
    raw.extend(flags.to_le_bytes());
    raw
}

#[test]
fn block_keeps_the_rules_of_virtio() {
    let image = image(1 << 20);
    for by in [By::Ring, By::Plain] {
        conforms(|| {
            // The last driver's device may still have the lock; the next one waits for it.
            let disk = open(&image, &Options::default());
            Box::new(block(disk, 2, Rates::default(), by))
        });
    }
}

#[test]
fn what_was_written_is_read_back_and_is_in_the_file() {
    for (by, over) in WAYS {
        let image = image(1 << 20);
        let mut driver = live(open(&image, &Options::default()), by, over);
        let text: Vec<u8> = (0..4096u32).map(|i| (i * 7) as u8).collect();
        assert_eq!(status(&mut driver, OUT, 8, Data::Out(&text)), 0);
        assert_eq!(status(&mut driver, FLUSH, 0, Data::In(0)), 0);
        assert_eq!(ask(&mut driver, IN, 8, Data::In(4096)), (0, text.clone()));
        let whole = std::fs::read(image.path()).expect("read");
        assert_eq!(whole.len(), 1 << 20);
        assert_eq!(whole[4096..8192], text);
        assert!(whole[..4096].iter().chain(&whole[8192..]).all(|b| *b == 0));
        until("an interrupt", || driver.interrupts(0) > 0);
    }
}

#[test]
fn requests_past_the_end_of_odd_length_or_without_meaning_are_refused() {
    for (by, over) in WAYS {
        let image = image(16 * 512);
        let mut driver = live(open(&image, &Options::default()), by, over);
        for sector in [16, 1 << 40, u64::MAX / 512, u64::MAX / 512 + 1, u64::MAX] {
            assert_eq!(status(&mut driver, IN, sector, Data::In(512)), 1, "{sector}");
            assert_eq!(status(&mut driver, OUT, sector, Data::Out(&[1; 512])), 1, "{sector}");
            assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(sector, 1, 0))), 1, "{sector}");
        }
        assert_eq!(status(&mut driver, IN, 15, Data::In(1024)), 1);
        assert_eq!(status(&mut driver, IN, 0, Data::In(511)), 1);
        assert_eq!(status(&mut driver, OUT, 0, Data::Out(&[1; 513])), 1);
        for kind in [2, 3, 5, 7, 9, 10, 12, 14, 15, u32::MAX] {
            assert_eq!(status(&mut driver, kind, 0, Data::In(512)), 2, "{kind}");
        }
        assert_eq!(std::fs::read(image.path()).expect("read"), vec![0; 16 * 512]);
    }
}

#[test]
fn a_request_without_room_for_its_status_comes_back_and_the_queue_goes_on() {
    for (by, over) in WAYS {
        let mut driver = live(open(&image(4096), &Options::default()), by, over);
        driver.rings[0].add(&[Buffer { at: HEADER, len: 16, writable: false }]);
        driver.notify(0);
        assert_eq!(driver.rings[0].wait().written, 0);
        driver.rings[0].add(&[
            Buffer { at: HEADER, len: 8, writable: false },
            Buffer { at: STATUS, len: 1, writable: true },
        ]);
        driver.notify(0);
        assert_eq!(driver.rings[0].wait().written, 1);
        assert_eq!(status(&mut driver, IN, 0, Data::In(512)), 0);
    }
}

#[test]
fn a_readonly_disk_is_never_written() {
    for (by, over) in WAYS {
        let image = image(4096);
        let options = Options { readonly: true, ..Options::default() };
        let mut driver = live(open(&image, &options), by, over);
        assert_ne!(driver.offered() & 1 << F_RO, 0);
        assert_eq!(status(&mut driver, OUT, 0, Data::Out(&[1; 512])), 1);
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(0, 1, 0))), 2);
        assert_eq!(ask(&mut driver, IN, 0, Data::In(512)), (0, vec![0; 512]));
    }
}

#[test]
fn the_serial_number_is_cut_to_twenty_bytes_and_padded_with_zeros() {
    let cases = [("kiwi", "kiwi"), ("a serial number that is too long", "a serial number that")];
    for (given, wanted) in cases {
        let options = Options { serial: given.to_owned(), ..Options::default() };
        let mut driver = live(open(&image(4096), &options), By::Ring, Over::Pci);
        let mut expected = wanted.as_bytes().to_vec();
        expected.resize(20, 0);
        assert_eq!(ask(&mut driver, GET_ID, 0, Data::In(20)), (0, expected));
    }
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros_and_give_space_back() {
    use std::os::unix::fs::MetadataExt;
    for (by, over) in WAYS {
        let image = image(1 << 20);
        let mut driver = live(open(&image, &Options::default()), by, over);
        let full = vec![0xaa; 32 << 10];
        for i in 0..4 {
            assert_eq!(status(&mut driver, OUT, i * 64, Data::Out(&full)), 0);
        }
        image.as_file().sync_all().expect("synced");
        let before = image.as_file().metadata().expect("told").blocks();
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(0, 64, 0))), 0);
        for zeros in [range(64, 64, 0), range(128, 32, 1)] {
            assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&zeros)), 0);
        }
        let mut wanted = vec![0; 80 << 10];
        wanted.resize(128 << 10, 0xaa);
        assert!(std::fs::read(image.path()).expect("read").starts_with(&wanted));
        image.as_file().sync_all().expect("synced");
        assert!(image.as_file().metadata().expect("told").blocks() < before);
        // Flags without a meaning, and too much at once.
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(0, 1, 1))), 2);
        assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&range(0, 1, 2))), 2);
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&vec![0; 16 * 17])), 1);
        assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&[0; 16 * 2])), 1);
        assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&[0; 15])), 1);
        assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&[])), 1);
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(5, 0, 0))), 0);
    }
}

#[test]
fn what_was_not_negotiated_is_not_understood_and_writes_are_durable_without_a_flush() {
    for (by, over) in WAYS {
        let image = image(1 << 20);
        let device = block(open(&image, &Options::default()), 1, Rates::default(), by);
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(feature::COMMON);
        assert_eq!(status(&mut driver, FLUSH, 0, Data::In(0)), 2);
        assert_eq!(status(&mut driver, DISCARD, 0, Data::Out(&range(0, 1, 0))), 2);
        assert_eq!(status(&mut driver, OUT, 0, Data::Out(&[7; 4096])), 0);
        assert_eq!(ask(&mut driver, IN, 0, Data::In(512)), (0, vec![7; 512]));
    }
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_no_hang() {
    for (by, over) in WAYS {
        let image = image(1 << 20);
        let mut driver = live(open(&image, &Options::default()), by, over);
        image.as_file().set_len(4096 + 700).expect("cut");
        assert_eq!(status(&mut driver, IN, 8, Data::In(1024)), 1, "half of it is there");
        assert_eq!(status(&mut driver, IN, 100, Data::In(512)), 1);
        assert_eq!(status(&mut driver, IN, 0, Data::In(4096)), 0);
    }
}

#[test]
fn a_change_of_size_is_told_to_the_driver_and_counts_at_once() {
    for (by, over) in WAYS {
        let image = image(4096);
        let device = block(open(&image, &Options::default()), 1, Rates::default(), by);
        let disk = device.disk();
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(u64::MAX);
        assert_eq!(driver.config(0, 4), [8, 0, 0, 0]);
        assert_eq!(status(&mut driver, IN, 8, Data::In(512)), 1);
        image.as_file().set_len(8192).expect("grown");
        assert_eq!(disk.measure().expect("measured"), 8192);
        assert_eq!(driver.config(0, 4), [16, 0, 0, 0]);
        assert_eq!(status(&mut driver, IN, 8, Data::In(512)), 0);
        if over == Over::Mmio {
            assert_eq!(driver.peek(0xfc, 4), [1, 0, 0, 0], "a new generation of the configuration");
        }
    }
}

#[test]
fn the_configuration_tells_limits_and_sizes() {
    let device = block(open(&image(4096), &Options::default()), 4, Rates::default(), By::Plain);
    let mut driver = Driver::new(Box::new(device), Over::Pci);
    let number = |raw: Vec<u8>| raw.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!(number(driver.config(12, 4)), 254, "buffers a request");
    assert_eq!(number(driver.config(20, 4)), 512, "bytes a block");
    assert_eq!(number(driver.config(34, 2)), 4, "queues");
    assert_eq!(number(driver.config(36, 4)), 1 << 22, "sectors a discard");
    let physical = 512u64 << number(driver.config(24, 1));
    assert!((512..=64 << 10).contains(&physical), "{physical}");
}

#[test]
fn every_queue_works_by_itself() {
    for (by, over) in WAYS {
        let image = image(1 << 20);
        let device = block(open(&image, &Options::default()), 3, Rates::default(), by);
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(u64::MAX);
        for round in 0..30u16 {
            let (queue, sector) = (round % 3, u64::from(round));
            let text = [round as u8; 512];
            begin(&mut driver, queue, OUT, sector, &Data::Out(&text));
            assert_eq!(end(&mut driver, queue, &Data::Out(&text)).0, 0);
            begin(&mut driver, (queue + 1) % 3, IN, sector, &Data::In(512));
            assert_eq!(end(&mut driver, (queue + 1) % 3, &Data::In(512)), (0, text.to_vec()));
        }
    }
}

#[test]
fn limits_hold_requests_back_and_let_all_of_them_pass_in_the_end() {
    for (by, over) in WAYS {
        let rates = Rates { operations: NonZeroU64::new(100), bytes: None };
        let device = block(open(&image(1 << 20), &Options::default()), 1, rates, by);
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(u64::MAX);
        let begun = Instant::now();
        for _ in 0..25 {
            begin(&mut driver, 0, IN, 0, &Data::In(512));
        }
        for _ in 0..25 {
            end(&mut driver, 0, &Data::In(512));
        }
        // Ten at once, fifteen at a hundred a second.
        assert!(begun.elapsed() >= Duration::from_millis(149), "{by:?} {:?}", begun.elapsed());
        driver.set_status(0);
    }
}

#[test]
fn a_request_held_back_does_not_hold_a_reset_up() {
    // A request holds the next one back for eight minutes.
    let rates = Rates { operations: None, bytes: NonZeroU64::new(1) };
    for (by, over) in WAYS {
        let device = block(open(&image(1 << 20), &Options::default()), 1, rates, by);
        let mut driver = Driver::new(Box::new(device), over);
        let begun = Instant::now();
        for _ in 0..5 {
            driver.start(u64::MAX);
            begin(&mut driver, 0, IN, 0, &Data::In(512));
            begin(&mut driver, 0, IN, 0, &Data::In(512));
            driver.set_status(0);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{by:?} {:?}", begun.elapsed());
    }
}

#[test]
fn a_request_held_back_over_a_reset_is_paid_for() {
    let rates = Rates { operations: NonZeroU64::new(2), bytes: None };
    for (by, over) in WAYS {
        let device = block(open(&image(1 << 20), &Options::default()), 1, rates, by);
        let mut driver = Driver::new(Box::new(device), over);
        let begun = Instant::now();
        driver.start(u64::MAX);
        // One kick for both: where the first has been done, the second is held back.
        offer(&mut driver, 0, IN, 0, &Data::In(512));
        begin(&mut driver, 0, IN, 0, &Data::In(512));
        end(&mut driver, 0, &Data::In(512));
        driver.set_status(0);
        driver.start(u64::MAX);
        begin(&mut driver, 0, IN, 0, &Data::In(512));
        end(&mut driver, 0, &Data::In(512));
        assert!(begun.elapsed() >= Duration::from_millis(800), "{by:?} {:?}", begun.elapsed());
    }
}

#[test]
fn zeros_are_limited_like_what_is_written_and_more_than_a_host_can_write_at_once_is_refused() {
    let rates = Rates { operations: None, bytes: NonZeroU64::new(10 << 20) };
    for (by, over) in WAYS {
        let device = block(open(&image(65 << 20), &Options::default()), 1, rates, by);
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(u64::MAX);
        let begun = Instant::now();
        for _ in 0..2 {
            assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&range(0, 4096, 1))), 0);
        }
        assert!(begun.elapsed() >= Duration::from_millis(95), "{by:?} {:?}", begun.elapsed());
        assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&range(0, (1 << 17) + 1, 1))), 1);
    }
}

#[test]
fn a_reset_with_requests_under_way_leaves_memory_alone_afterwards() {
    let image = image(1 << 20);
    std::fs::write(image.path(), vec![0x55; 1 << 20]).expect("filled");
    for (by, over) in WAYS {
        let mut driver = live(open(&image, &Options::default()), by, over);
        for round in 0..50u64 {
            for sector in 0..40 {
                begin(&mut driver, 0, IN, sector * 8 + round, &Data::In(4096));
            }
            driver.set_status(0);
            driver.ram.memory().write_slice(&[0; 4096], GuestAddress(DATA)).expect("written");
            driver.start(u64::MAX);
            let mut data = [0xff; 4096];
            driver.ram.memory().read_slice(&mut data, GuestAddress(DATA)).expect("read");
            assert_eq!(data, [0; 4096]);
        }
    }
}

#[test]
fn more_than_may_be_under_way_at_once_is_done_all_the_same() {
    for (by, over) in WAYS {
        let image = image(1 << 20);
        // Each of them has a share of what may be under way, and this one gets four times as much to do.
        let device = block(open(&image, &Options::default()), 8, Rates::default(), by);
        let mut driver = Driver::new(Box::new(device), over);
        driver.start(u64::MAX);
        for _ in 0..60 {
            offer(&mut driver, 0, IN, 0, &Data::In(512 << 10));
        }
        driver.notify(0);
        for _ in 0..60 {
            assert_eq!(end(&mut driver, 0, &Data::In(512 << 10)).0, 0);
        }
    }
}

#[test]
fn data_outside_of_memory_are_an_error_and_the_disk_works_on() {
    const OUTSIDE: u64 = 0x20_0000;
    for (by, over) in WAYS {
        let mut driver = live(open(&image(4096), &Options::default()), by, over);
        for (kind, at) in [(IN, OUTSIDE), (OUT, OUTSIDE), (IN, u64::MAX - 511), (OUT, u64::MAX - 511)] {
            let memory = driver.ram.memory();
            memory.write_obj([u64::from(kind), 0], GuestAddress(HEADER)).expect("written");
            memory.write_obj(0xffu8, GuestAddress(STATUS)).expect("written");
            driver.rings[0].add(&[
                Buffer { at: HEADER, len: 16, writable: false },
                Buffer { at, len: 512, writable: kind == IN },
                Buffer { at: STATUS, len: 1, writable: true },
            ]);
            driver.notify(0);
            driver.rings[0].wait();
            let status: u8 = driver.ram.memory().read_obj(GuestAddress(STATUS)).expect("read");
            assert_eq!(status, 1, "{by:?} over {over:?}, {kind} at {at:#x}");
        }
        assert_eq!(ask(&mut driver, IN, 0, Data::In(512)).0, 0);
    }
}

#[test]
fn a_run_away_index_needs_a_reset() {
    for (by, over) in WAYS {
        let mut driver = live(open(&image(4096), &Options::default()), by, over);
        let size = driver.rings[0].layout.size;
        driver.rings[0].offer(0, size + 1);
        driver.notify(0);
        needs_reset(&mut driver);
    }
}

#[test]
fn a_disk_is_one_machines_alone_unless_nobody_writes() {
    let image = image(4096);
    let readonly = Options { readonly: true, ..Options::default() };
    let first = open(&image, &Options::default());
    for options in [&Options::default(), &readonly] {
        let refused = Disk::open(image.path(), options).expect_err("in use");
        assert!(refused.to_string().contains("another program uses it"), "{refused}");
    }
    drop(first);
    let _first = open(&image, &readonly);
    let _second = open(&image, &readonly);
    assert!(matches!(Disk::open(image.path(), &Options::default()), Err(DiskError::InUse)));
}

#[test]
fn what_is_no_disk_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a folder");
    let open =
        |path: &std::path::Path| Disk::open(path, &Options::default()).expect_err("refused").to_string();
    assert_eq!(open(dir.path()), "it is neither a regular file nor a block device");
    assert_eq!(open("/dev/null".as_ref()), "it is neither a regular file nor a block device");
    assert!(open(&dir.path().join("none")).contains("No such file"));
    let image = image(4096);
    let reading = File::open(image.path()).expect("open");
    let refused = Disk::new(reading, &Options::default()).expect_err("refused").to_string();
    assert!(refused.contains("add readonly=on"), "{refused}");
    let direct = Options { direct: true, ..Options::default() };
    let cached = image.reopen().expect("open");
    assert!(Disk::new(cached, &direct).expect_err("refused").to_string().contains("without O_DIRECT"));
}

/// A step of a driver's: sector, sectors, and what is done there.
fn step() -> impl Strategy<Value = (u64, u32, u8)> {
    (0..64u64, 1..16u32, 0..5u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_disk_is_what_was_written_to_it(steps in prop::collection::vec(step(), 1..40)) {
        for (by, over) in [(By::Ring, Over::Pci), (By::Plain, Over::Mmio)] {
            let image = image(80 * 512);
            let mut driver = live(open(&image, &Options::default()), by, over);
            let mut model = vec![0u8; 80 * 512];
            for (round, (sector, sectors, what)) in steps.iter().enumerate() {
                let at = *sector as usize * 512..(*sector as usize + *sectors as usize) * 512;
                match what {
                    0 | 1 => {
                        model[at.clone()].fill(round as u8 + 1);
                        prop_assert_eq!(status(&mut driver, OUT, *sector, Data::Out(&model[at])), 0);
                    }
                    2 => {
                        model[at].fill(0);
                        let raw = range(*sector, *sectors, u32::from(round % 2 == 0));
                        prop_assert_eq!(status(&mut driver, WRITE_ZEROES, 0, Data::Out(&raw)), 0);
                    }
                    3 => prop_assert_eq!(status(&mut driver, FLUSH, 0, Data::In(0)), 0),
                    _ => {
                        let got = ask(&mut driver, IN, *sector, Data::In(sectors * 512));
                        prop_assert_eq!(got, (0, model[at].to_vec()));
                    }
                }
            }
            prop_assert_eq!(std::fs::read(image.path()).expect("read"), model);
        }
    }
}
