//! The balloon against a driver that lists whatever pages it likes, those of its own rings too.
#![no_main]

use devices::confine::Confinement;
use devices::testing::{Driver, Over, script};
use devices::virtio::balloon::{Balloon, Options};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let over = if shape & 1 == 0 { Over::Mmio } else { Over::Pci };
    let options = Options { deflate_on_oom: shape & 2 != 0, free_page_reporting: shape & 4 != 0 };
    let balloon = Balloon::new(u64::from(*shape) << 12, options, &Confinement::none()).expect("a thread");
    let size = balloon.size();
    let mut driver = Driver::new(Box::new(balloon), over);
    script::play(&mut driver, rest);
    size.set(1 << 20);
    assert_eq!(driver.config(0, 4), [0, 1, 0, 0]);
});
