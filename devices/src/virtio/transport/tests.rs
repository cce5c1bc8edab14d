//! What a driver sees of each transport beside the conformance suite.

use crate::testing::{Driver, Over};
use crate::virtio::{Activation, Profile, Progress, StartError, VirtioDevice};

/// A device that is only looked at.
struct Still;

impl VirtioDevice for Still {
    fn profile(&self) -> Profile {
        Profile { kind: 4, features: 1 << 40, queue_sizes: vec![8, 16], config_len: 4 }
    }
    fn read_config(&self, offset: u32, out: &mut [u8]) {
        out.fill(0x10 + u8::try_from(offset).expect("small"));
    }
    fn start(&mut self, _: Activation) -> Result<(), StartError> {
        Ok(())
    }
    fn stop(&mut self) -> Vec<Progress> {
        Vec::new()
    }
}

#[test]
fn still_devices_keep_the_rules_of_virtio() {
    crate::testing::conformance::conforms(|| Box::new(Still));
}

#[test]
fn mmio_begins_with_the_magic_word_its_version_and_the_device() {
    let mut driver = Driver::new(Box::new(Still), Over::Mmio);
    assert_eq!(driver.peek(0, 4), *b"virt");
    assert_eq!(driver.peek(4, 4), [2, 0, 0, 0]);
    assert_eq!(driver.peek(8, 4), [4, 0, 0, 0]);
    assert_eq!(driver.peek(0x34, 4), [8, 0, 0, 0]);
    assert_eq!(driver.peek(0xb0, 4), [0xff; 4], "no shared memory");
    assert_eq!(driver.peek(1, 2), [0, 0], "registers are read whole");
}

#[test]
fn pci_shows_queues_sizes_and_doorbells() {
    let mut driver = Driver::new(Box::new(Still), Over::Pci);
    assert_eq!(driver.peek(0x12, 2), [2, 0]);
    driver.select_queue(1);
    assert_eq!(driver.peek(0x18, 2), [16, 0]);
    assert_eq!(driver.peek(0x1e, 2), [1, 0]);
    driver.poke(0x1a, &9u16.to_le_bytes());
    assert_eq!(driver.peek(0x1a, 2), [0xff, 0xff], "a vector that is not there");
}

#[test]
fn configuration_is_read_at_its_offset() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = Driver::new(Box::new(Still), over);
        assert_eq!(driver.config(2, 2), [0x12, 0x12]);
    }
}
