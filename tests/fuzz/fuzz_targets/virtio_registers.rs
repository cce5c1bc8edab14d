//! Both transports and the devices behind them against a driver that reads and writes whatever it likes, over
//! activation and reset.
#![no_main]

use std::fs::File;
use std::num::NonZeroU64;

use devices::chardev::{Chardev, Target};
use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::{Driver, Over};
use devices::virtio::VirtioDevice;
use devices::virtio::console::Console;
use devices::virtio::rng::Rng;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

fn device(console: bool, limited: bool) -> Box<dyn VirtioDevice> {
    let rate = NonZeroU64::new(1000).filter(|_| limited);
    let rates = Rates { bytes: rate, operations: rate };
    if console {
        let chardev = Chardev::new(Target::Null).expect("nothing is needed for nothing");
        Box::new(Console::new(&chardev, None, rates, &Confinement::none()).expect("a thread"))
    } else {
        let source = File::open("/dev/zero").expect("/dev/zero");
        Box::new(Rng::new(source, rates, &Confinement::none()).expect("a thread"))
    }
}

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let over = if shape & 1 == 0 { Over::Mmio } else { Over::Pci };
    let mut driver = Driver::new(device(shape & 2 != 0, shape & 8 != 0), over);
    // Half of the runs begin with a live device.
    if shape & 4 != 0 {
        driver.start(u64::MAX);
    }
    let mut rest = rest;
    while let [op, a, b, value @ ..] = rest {
        let width = 1 << (op >> 3 & 3);
        let Some((value, tail)) = value.split_at_checked(width) else { return };
        rest = tail;
        let at = u16::from_le_bytes([*a, *b]);
        match op & 7 {
            0 | 1 => driver.poke(u64::from(at) % driver.window(), value),
            // Most registers that matter are the first ones.
            2 => driver.poke(u64::from(*a), value),
            3 => drop(driver.peek(u64::from(at) % driver.window(), width)),
            4 => driver.poke_space(usize::from(at) % (0x1000 - width), value),
            5 => {
                let ring = 0x1000_0000 + u64::from(at) % 0x2000;
                driver.ram.memory().write_slice(value, GuestAddress(ring)).expect("in memory");
            }
            6 => driver.notify(u16::from(*a)),
            _ => driver.set_status(*a),
        }
    }
    driver.set_status(0);
    driver.start(u64::MAX);
});
