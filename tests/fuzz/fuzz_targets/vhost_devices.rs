//! The devices whose queues the host's kernel works, sockets and network, against a driver that does as it likes: what
//! of rings and memory reaches the kernel, and what becomes of it at a reset. Needs the host's vhost and taps.
#![no_main]

use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::{Driver, Over, script};
use devices::virtio::VirtioDevice;
use libfuzzer_sys::fuzz_target;
use virtio_net::{Net, Options, Tap, Vhost};
use vsock::Vsock;

fn net(pairs: usize) -> Box<dyn VirtioDevice> {
    let taps = Tap::open("fuzzed", pairs, None).expect("the host has taps");
    let options = Options {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: None,
        offload: true,
        vhost: Vhost::On,
        rates: Rates::default(),
    };
    Box::new(Net::new(0, taps, options, &Confinement::none()).expect("the host has vhost-net"))
}

fn vsock() -> Box<dyn VirtioDevice> {
    Box::new(Vsock::open(77, &Confinement::none()).expect("the host has vhost-vsock"))
}

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let over = if shape & 1 == 0 { Over::Mmio } else { Over::Pci };
    let device = if shape & 2 == 0 { vsock() } else { net(1 + usize::from(shape >> 2 & 1)) };
    let mut driver = Driver::new(device, over);
    script::play(&mut driver, rest);
    // The kernel has let go of everything: the next driver has it again.
    driver.start(u64::MAX);
    driver.set_status(0);
});
