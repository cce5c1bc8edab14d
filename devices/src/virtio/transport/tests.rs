//! What a driver sees of each transport beside the conformance suite.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use crate::doorbell::{DoorbellAddress, Register};
use crate::shared_memory::{GRAIN, Region, RegionSource};
use crate::testing::{Driver, Over, REGION, make_blocking};
use crate::virtio::spec::{feature, status};
use crate::virtio::{Activation, Profile, Progress, StartError, VirtioDevice};

/// A device that is only looked at; its queues may share a vector.
struct Still(bool);

impl VirtioDevice for Still {
    fn profile(&self) -> Profile {
        Profile { kind: 4, features: 1 << 40, queue_sizes: vec![8, 16], config_len: 4 }
    }
    fn shares_a_vector(&self) -> bool {
        self.0
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

/// A device that has something to show.
struct Showing(Arc<Region>);

impl VirtioDevice for Showing {
    fn profile(&self) -> Profile {
        Still(false).profile()
    }
    fn read_config(&self, offset: u32, out: &mut [u8]) {
        Still(false).read_config(offset, out);
    }
    fn shared_memory(&self) -> Option<Arc<Region>> {
        Some(self.0.clone())
    }
    fn start(&mut self, _: Activation) -> Result<(), StartError> {
        Ok(())
    }
    fn stop(&mut self) -> Vec<Progress> {
        Vec::new()
    }
}

/// With a region of 8 GiB, which takes both halves of every register.
const LONG: u64 = 8 << 30;

fn showing() -> Box<dyn VirtioDevice> {
    Box::new(Showing(Arc::new(Region::new(LONG).expect("a region"))))
}

#[test]
fn devices_with_shared_memory_keep_the_rules_of_virtio() {
    crate::testing::conformance::conforms(showing);
}

#[test]
fn over_mmio_registers_tell_of_shared_memory() {
    let mut driver = Driver::new(showing(), Over::Mmio);
    let words = |driver: &mut Driver| {
        [0xb0, 0xb4, 0xb8, 0xbc].map(|at| u32::from_le_bytes(driver.peek(at, 4).try_into().expect("a word")))
    };
    assert_eq!(words(&mut driver), [0, 2, 0, 0x10]);
    driver.poke(0xac, &1u32.to_le_bytes());
    assert_eq!(words(&mut driver), [u32::MAX; 4], "there is no region 1");
    driver.set_status(0);
    assert_eq!(words(&mut driver), [0, 2, 0, 0x10]);
}

#[test]
fn over_pci_a_capability_tells_of_shared_memory_and_a_bar_where_it_is() {
    let mut driver = Driver::new(showing(), Over::Pci);
    let mut next = usize::from(driver.peek_space(0x34, 1)[0]);
    let mut found = Vec::new();
    while next != 0 {
        let cap = driver.peek_space(next, 24);
        if cap[0] == 9 && cap[3] == 8 {
            found.push(cap.clone());
        }
        next = cap[1].into();
    }
    // Length, type, BAR, id, padding; offset and length; their upper halves.
    let body = [vec![24, 8, 2, 0, 0, 0], vec![0; 12], vec![2, 0, 0, 0]].concat();
    let [only] = &found[..] else { panic!("one capability: {found:x?}") };
    assert_eq!(only[2..], body[..]);
    let bar = (REGION | 0xc).to_le_bytes();
    assert_eq!(driver.peek_space(0x18, 8), bar, "64 bits, prefetchable");
    let mut without = Driver::new(Box::new(Still(false)), Over::Pci);
    assert_eq!(without.peek_space(0x18, 8), [0; 8]);
}

#[test]
fn shared_memory_is_shown_while_the_device_is_live_and_follows_its_bar() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = Driver::new(showing(), over);
        assert_eq!(driver.regions.list(), [0u64; 0]);
        driver.start(feature::COMMON);
        assert_eq!(driver.regions.list(), [REGION]);
        driver.set_status(0);
        assert_eq!(driver.regions.list(), [0u64; 0]);
        driver.start(0);
        driver.poke_space(0x1c, &0x20u32.to_le_bytes());
        let moved = if over == Over::Pci { 0x20_0000_0000 } else { REGION };
        assert_eq!(driver.regions.list(), [moved]);
        driver.poke_space(4, &[0, 0]);
        assert_eq!(driver.regions.list().len(), usize::from(over == Over::Mmio), "decoding is off");
        driver.poke_space(4, &[2, 0]);
        assert_eq!(driver.regions.list(), [moved]);
        let regions = driver.regions.clone();
        drop(driver);
        assert_eq!(regions.list(), [0u64; 0]);
    }
}

#[test]
fn a_device_whose_shared_memory_cannot_be_shown_does_not_go_on() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = Driver::new(showing(), over);
        let (region, regions) = (Arc::new(Region::new(GRAIN).expect("a region")), driver.regions.clone());
        let in_the_way = regions.show(REGION, &region).expect("free");
        driver.start(feature::COMMON);
        assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0, "{over:?}");
        drop(in_the_way);
        driver.set_status(0);
        driver.start(feature::COMMON);
        assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0, "{over:?}");
        let _in_the_way = regions.show(0x20_0000_0000, &region).expect("free");
        driver.poke_space(0x1c, &0x20u32.to_le_bytes());
        assert_eq!(
            driver.status() & status::DEVICE_NEEDS_RESET != 0,
            over == Over::Pci,
            "moved onto another"
        );
    }
}

#[test]
fn still_devices_keep_the_rules_of_virtio() {
    crate::testing::conformance::conforms(|| Box::new(Still(false)));
}

#[test]
fn mmio_begins_with_the_magic_word_its_version_and_the_device() {
    let mut driver = Driver::new(Box::new(Still(false)), Over::Mmio);
    assert_eq!(driver.peek(0, 4), *b"virt");
    assert_eq!(driver.peek(4, 4), [2, 0, 0, 0]);
    assert_eq!(driver.peek(8, 4), [4, 0, 0, 0]);
    assert_eq!(driver.peek(0x34, 4), [8, 0, 0, 0]);
    assert_eq!(driver.peek(0xb0, 4), [0xff; 4], "no shared memory");
    assert_eq!(driver.peek(1, 2), [0, 0], "registers are read whole");
}

#[test]
fn pci_shows_queues_sizes_and_doorbells() {
    let mut driver = Driver::new(Box::new(Still(false)), Over::Pci);
    assert_eq!(driver.peek(0x12, 2), [2, 0]);
    driver.select_queue(1);
    assert_eq!(driver.peek(0x18, 2), [16, 0]);
    assert_eq!(driver.peek(0x1e, 2), [0, 0], "one doorbell for all");
    driver.poke(0x1a, &9u16.to_le_bytes());
    assert_eq!(driver.peek(0x1a, 2), [0xff, 0xff], "a vector that is not there");
}

#[test]
fn queues_that_share_a_vector_have_one_beside_that_of_the_configuration() {
    crate::testing::conformance::conforms(|| Box::new(Still(true)));
    for (shares, second) in [(false, [2, 0]), (true, [0xff, 0xff])] {
        let mut driver = Driver::new(Box::new(Still(shares)), Over::Pci);
        for queue in [0, 1] {
            driver.select_queue(queue);
            driver.poke(0x1a, &2u16.to_le_bytes());
            assert_eq!(driver.peek(0x1a, 2), second);
            driver.poke(0x1a, &1u16.to_le_bytes());
            assert_eq!(driver.peek(0x1a, 2), [1, 0]);
        }
    }
}

#[test]
fn configuration_is_read_at_its_offset() {
    for over in [Over::Mmio, Over::Pci] {
        let mut driver = Driver::new(Box::new(Still(false)), over);
        assert_eq!(driver.config(2, 2), [0x12, 0x12]);
    }
}

/// The vendor's capability of type `kind`: where it is, and its bytes.
fn capability(driver: &mut Driver, kind: u8) -> (usize, Vec<u8>) {
    let mut at = usize::from(driver.peek_space(0x34, 1)[0]);
    loop {
        assert_ne!(at, 0, "no capability of type {kind}");
        let bytes = driver.peek_space(at, 20);
        if bytes[0] == 9 && bytes[3] == kind {
            return (at, bytes);
        }
        at = bytes[1].into();
    }
}

#[test]
fn over_pci_the_doorbell_is_a_port_which_the_window_of_configuration_space_reaches_too() {
    let (give, given) = channel();
    let mut driver = Driver::new(Box::new(Generous(give)), Over::Pci);
    driver.start(0);
    let kicks: Vec<_> = given.try_iter().collect();
    let (_, notify) = capability(&mut driver, 2);
    // BAR 1; at 0, four ports; none between the doorbells of two queues. It comes before the one in memory.
    assert_eq!((notify[4], &notify[8..]), (1, &[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0][..]));
    assert_eq!(driver.peek_space(0x14, 4), [1, 0xc0, 0, 0]);
    driver.notify(1);
    assert_eq!((kicks[0].read().ok(), kicks[1].read().ok()), (None, Some(1)));
    let (window, _) = capability(&mut driver, 5);
    let ring = |driver: &mut Driver, bar: u8, offset: u8, len: u8, queue: u8| {
        driver.poke_space(window + 4, &[bar]);
        driver.poke_space(window + 8, &[offset, 0, 0, 0, len, 0, 0, 0]);
        driver.poke_space(window + 16, &[queue, 0, 0, 0]);
    };
    ring(&mut driver, 1, 0, 2, 0);
    assert_eq!((kicks[0].read().ok(), kicks[1].read().ok()), (Some(1), None));
    driver.poke(0x1800, &[1, 0]);
    assert_eq!((kicks[0].read().ok(), kicks[1].read().ok()), (None, Some(1)), "in memory");
    // A queue that is not there, other widths, other ports, a BAR that is not there.
    for (bar, offset, len, queue) in [(1, 0, 2, 2), (1, 0, 1, 0), (1, 0, 4, 0), (1, 2, 2, 0), (2, 0, 2, 0)] {
        ring(&mut driver, bar, offset, len, queue);
        assert_eq!((kicks[0].read().ok(), kicks[1].read().ok()), (None, None), "{bar} {offset} {len}");
    }
}

#[test]
fn doorbells_are_where_their_register_is_seen_and_only_while_the_device_is_live() {
    let two = |register| [0, 1].map(|value| DoorbellAddress { register, value });
    let mut driver = Driver::new(Box::new(Still(false)), Over::Mmio);
    driver.start(0);
    assert_eq!(driver.doorbells.list(), two(Register::Memory(0xfe00_0050)));
    driver.set_status(0);
    assert_eq!(driver.doorbells.list(), []);

    let mut driver = Driver::new(Box::new(Still(false)), Over::Pci);
    assert_eq!(driver.doorbells.list(), []);
    driver.start(0);
    assert_eq!(driver.doorbells.list(), two(Register::Port(0xc000)));
    driver.poke_space(0x04, &[2, 0]);
    assert_eq!(driver.doorbells.list(), [], "decoding of ports is off");
    driver.poke_space(0x14, &[0xff; 4]);
    driver.poke_space(0x14, &[0x01, 0xd0, 0, 0]);
    assert_eq!(driver.doorbells.list(), []);
    driver.poke_space(0x04, &[3, 0]);
    assert_eq!(driver.doorbells.list(), two(Register::Port(0xd000)));
    driver.poke_space(0x14, &[0x01, 0xe0, 0, 0]);
    assert_eq!(driver.doorbells.list(), two(Register::Port(0xe000)));
    driver.set_status(0);
    assert_eq!(driver.doorbells.list(), []);
}

/// A device that gives its kicks away.
struct Generous(Sender<EventFd>);

impl VirtioDevice for Generous {
    fn profile(&self) -> Profile {
        Still(false).profile()
    }
    fn read_config(&self, _: u32, _: &mut [u8]) {}
    fn start(&mut self, activation: Activation) -> Result<(), StartError> {
        activation.queues.into_iter().for_each(|grant| self.0.send(grant.kick).expect("taken"));
        Ok(())
    }
    fn stop(&mut self) -> Vec<Progress> {
        Vec::new()
    }
}

#[test]
fn who_keeps_the_kicks_and_makes_them_blocking_holds_up_no_reset_and_hears_no_later_kick() {
    for over in [Over::Mmio, Over::Pci] {
        let (give, given) = channel();
        let (done, ended) = channel();
        std::thread::spawn(move || {
            let mut driver = Driver::new(Box::new(Generous(give)), over);
            driver.start(0);
            let kicks: Vec<_> = given.try_iter().inspect(make_blocking).collect();
            driver.set_status(0);
            driver.start(0);
            driver.notify(0);
            kicks[0].write(1).expect("it has room");
            let fresh: Vec<_> = given.try_iter().collect();
            let _ = done.send((kicks[0].read().ok(), fresh[0].read().ok()));
        });
        let heard = ended.recv_timeout(Duration::from_secs(60)).expect("nothing waits for ever");
        assert_eq!(heard, (Some(1), Some(1)), "{over:?}");
    }
}
