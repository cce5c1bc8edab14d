//! What every virtio device must do, and must survive, over either transport (VIRTIO 1.3, 2 to 4, and the bugs that
//! broke other VMMs).

use super::{Driver, Numbers, Over, until};
use crate::virtio::VirtioDevice;
use crate::virtio::spec::{feature, status};

type Make<'a> = &'a dyn Fn() -> Box<dyn VirtioDevice>;

/// Runs the whole suite over devices that `make` makes.
pub fn conforms(make: impl Fn() -> Box<dyn VirtioDevice>) {
    for over in [Over::Mmio, Over::Pci] {
        for (name, check) in CHECKS {
            eprintln!("conformance: {name} over {over:?}");
            check(&make, over);
        }
    }
}

type Check = fn(Make<'_>, Over);

const CHECKS: [(&str, Check); 12] = [
    ("status bits need the ones before them", steps),
    ("features that were not offered are refused", features),
    ("a live device comes back after a reset, many times", resets),
    ("queues do not change while the device is live", immutable),
    ("a size that is none cannot be enabled", sizes),
    ("rings outside memory need a reset", rings_outside),
    ("chains that break the rules are survived", bad_chains),
    ("a second DRIVER_OK starts nothing", twice),
    ("doorbells of queues that are not there ring nothing", doorbells),
    ("configuration ends where it ends", config),
    ("garbage in every register is survived", garbage),
    ("garbage in configuration space is survived", garbage_space),
];

fn live(make: Make<'_>, over: Over) -> Driver {
    let mut driver = Driver::new(make(), over);
    driver.start(feature::COMMON);
    assert_eq!(driver.status() & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET), status::DRIVER_OK);
    driver
}

/// The device can be reset, and driven again.
fn recovers(driver: &mut Driver) {
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    driver.start(feature::COMMON);
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0, "needs a reset after a reset");
    driver.set_status(0);
}

fn steps(make: Make<'_>, over: Over) {
    let mut driver = Driver::new(make(), over);
    assert_eq!(driver.status(), 0);
    driver.set_status(status::DRIVER_OK);
    driver.set_status(status::DRIVER);
    driver.set_status(status::FEATURES_OK);
    assert_eq!(driver.status(), 0, "nothing without ACKNOWLEDGE");
    driver.set_status(status::ACKNOWLEDGE);
    driver.set_status(status::ACKNOWLEDGE | status::DRIVER_OK);
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
    driver.set_status(status::FAILED);
    driver.set_status(0xff);
    assert_eq!(driver.status(), status::ACKNOWLEDGE | status::FAILED, "a device given up on stays so");
    recovers(&mut driver);
}

fn features(make: Make<'_>, over: Over) {
    let mut driver = Driver::new(make(), over);
    let offered = driver.offered();
    assert_eq!(offered & feature::COMMON, feature::COMMON);
    let begun = status::ACKNOWLEDGE | status::DRIVER;
    let mut refused = |bits: u64, select: Option<u32>| {
        driver.set_status(0);
        driver.set_status(begun);
        driver.accept(bits);
        if let Some(select) = select {
            driver.accept_word(select, 1);
        }
        driver.set_status(begun | status::FEATURES_OK);
        assert_eq!(driver.status(), begun, "features {bits:#x} {select:?}");
    };
    refused(0, None);
    refused(1 << feature::VERSION_1, Some(2));
    refused(1 << feature::VERSION_1, Some(u32::MAX));
    for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
        refused(1 << feature::VERSION_1 | 1 << bit, None);
    }
    driver.negotiate(u64::MAX);
    driver.accept(0);
    assert_eq!(driver.status() & status::FEATURES_OK, status::FEATURES_OK);
    recovers(&mut driver);
}

fn resets(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    for round in 0..50 {
        for queue in 0..driver.rings.len() as u16 {
            driver.notify(queue);
        }
        driver.set_status(0);
        assert_eq!(driver.status(), 0);
        assert!(!driver.queue_is_enabled());
        driver.start(if round % 2 == 0 { 0 } else { feature::COMMON });
        assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    }
}

fn immutable(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    for queue in 0..driver.rings.len() as u16 {
        let before = registers(&mut driver, queue);
        driver.set_queue_size(1);
        driver.place_queue([0x10, 0x20, 0x30]);
        driver.enable_queue();
        assert_eq!(registers(&mut driver, queue), before, "queue {queue}");
        assert!(driver.queue_is_enabled());
    }
    recovers(&mut driver);
}

/// What the transport shows of a queue; over MMIO only whether it is enabled (addresses are write-only).
fn registers(driver: &mut Driver, queue: u16) -> Vec<u8> {
    driver.select_queue(queue);
    if driver.window() == 0x1000 {
        return vec![u8::from(driver.queue_is_enabled())];
    }
    (0x18..0x38).step_by(4).flat_map(|at| driver.peek(at, if at < 0x20 { 2 } else { 4 })).collect()
}

fn sizes(make: Make<'_>, over: Over) {
    let mut driver = Driver::new(make(), over);
    driver.negotiate(0);
    driver.select_queue(0);
    for size in [0, 3, 0x7fff, 0xffff] {
        driver.set_queue_size(size);
        driver.enable_queue();
        assert!(!driver.queue_is_enabled(), "size {size}");
    }
    driver.select_queue(0xfffe);
    driver.set_queue_size(8);
    driver.enable_queue();
    assert!(!driver.queue_is_enabled(), "a queue that is not there");
    recovers(&mut driver);
}

fn rings_outside(make: Make<'_>, over: Over) {
    let mut driver = Driver::new(make(), over);
    let good = driver.rings[0].layout;
    let places = [
        [0x20_0000, good.avail, good.used],             // in the hole
        [good.desc, 0xf_fff0, good.used],               // over the end of a region
        [good.desc, good.avail, 0xffff_ffff_ffff_fff0], // over the end of addresses
        [good.desc + 8, good.avail, good.used],         // misaligned
        [good.desc, good.avail + 1, good.used],
        [good.desc, good.avail, good.used + 2],
    ];
    for place in places {
        driver.negotiate(feature::COMMON);
        driver.set_up_queues();
        driver.set_status(0);
        driver.negotiate(feature::COMMON);
        driver.select_queue(0);
        driver.set_queue_size(good.size);
        driver.place_queue(place);
        driver.enable_queue();
        driver.drive();
        assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0, "{place:x?}");
        driver.notify(0);
        recovers(&mut driver);
    }
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Each of these offers a queue something no driver may offer. Whether a device looks at it at once is its own
/// matter; it must live, and work after a reset.
fn bad_chains(make: Make<'_>, over: Over) {
    type Bad = fn(&mut super::Ring);
    let bad: [Bad; 14] = [
        |r| {
            r.descriptor(0, 0, 16, NEXT, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, 16, NEXT | WRITE, 1);
            r.descriptor(1, 0, 16, NEXT | WRITE, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, 16, NEXT, 0xffff);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, u32::MAX, WRITE, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, u32::MAX, 0, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, u64::MAX, 16, WRITE, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0xf_fff8, 16, WRITE, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, 16, WRITE | NEXT, 1);
            r.descriptor(1, 0, 16, 0, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0, 0, WRITE, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, 0x100, 17, INDIRECT, 0);
            r.offer(0, 1)
        },
        |r| {
            r.descriptor(0, r.layout.desc, 16, INDIRECT, 0);
            r.offer(0, 1)
        },
        |r| r.offer(0xffff, 1),
        |r| r.offer(0, r.layout.size + 1),
        |r| {
            r.descriptor(0, 0, 1, WRITE, 0);
            r.offer(0, 1);
            r.offer(0, 1);
            r.offer(0, 1)
        },
    ];
    let mut driver = live(make, over);
    for offer in bad {
        for queue in 0..driver.rings.len() as u16 {
            driver.start(feature::COMMON);
            offer(&mut driver.rings[usize::from(queue)]);
            driver.notify(queue);
            driver.notify(queue);
        }
        recovers(&mut driver);
    }
}

fn twice(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    driver.drive();
    driver.set_status(!status::FAILED);
    driver.drive();
    assert_eq!(driver.status() & status::DRIVER_OK, status::DRIVER_OK);
    recovers(&mut driver);
}

fn doorbells(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    for queue in [driver.rings.len() as u16, 100, 4095] {
        driver.notify(queue);
    }
    recovers(&mut driver);
    driver.notify(0);
    assert_eq!(driver.status(), 0, "a doorbell of a device at rest");
}

fn config(make: Make<'_>, over: Over) {
    let len = make().profile().config_len;
    let mut driver = live(make, over);
    for width in [1, 2, 4, 8] {
        let past = driver.config(u64::from(len), width);
        assert_eq!(past, vec![0; width], "past the end");
        if len > 0 {
            assert_eq!(driver.config(u64::from(len) - 1, width + 1), vec![0; width + 1], "over the end");
        }
        for offset in 0..u64::from(len) {
            driver.config(offset, width);
        }
    }
    recovers(&mut driver);
}

fn garbage(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000u32 {
        let n = numbers.number();
        // Half of all go to the first registers, where things happen.
        let window = if n & 1 == 0 { 0x100 } else { driver.window() };
        let (offset, width) = ((n >> 8) % window, 1 << (n >> 1 & 3));
        let raw = numbers.number().to_le_bytes();
        driver.poke(offset, &raw[..width]);
        driver.peek(offset, width);
        if round % 1000 == 0 {
            recovers(&mut driver);
            driver.start(feature::COMMON);
        }
    }
    recovers(&mut driver);
}

fn garbage_space(make: Make<'_>, over: Over) {
    let mut driver = live(make, over);
    let mut numbers = Numbers(0xdead_beef_cafe_f00d);
    for _ in 0..5_000 {
        let n = numbers.number();
        let (offset, width) = ((n >> 8) as usize % 0x100, 1 << (n >> 1 & 3));
        let raw = numbers.number().to_le_bytes();
        driver.poke_space(offset.min(0x1000 - width), &raw[..width]);
    }
    recovers(&mut driver);
}

/// Waits until the device says that it needs a reset.
pub fn needs_reset(driver: &mut Driver) {
    until("the device needs a reset", || driver.status() & status::DEVICE_NEEDS_RESET != 0);
}
