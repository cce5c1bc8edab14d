//! Sockets between host and guest, over the kernel's vhost-vsock and both transports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;

use devices::confine::Confinement;
use devices::testing::conformance::conforms;
use tests::TestVm;
use tests::peer::{self, Address};
use vsock::Vsock;

const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
const PORT: u32 = 1024;

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

/// A guest of context id `cid` that runs `script` once it has sockets.
fn guest(cid: u32, transport: &str, script: &str) -> TestVm {
    let script = format!("modprobe vmw_vsock_virtio_transport && {script}");
    TestVm::boot()
        .peer()
        .flag("--vsock", &format!("cid={cid}"))
        .flag("--transport", transport)
        .command(&["sh", "-c", &script])
}

/// Serves echoes on the host for as long as the test program runs; gives the port.
fn host_echoes() -> u32 {
    static STARTED: std::sync::Once = std::sync::Once::new();
    STARTED.call_once(|| drop(std::thread::spawn(|| Address::Vsock(ANY, PORT).serve(peer::echo))));
    PORT
}

#[test]
fn the_host_connects_to_the_guest_a_hundred_times_at_once() {
    both(|transport| {
        let vm = guest(10, transport, &format!("exec peer echo vsock:{ANY}:{PORT}"));
        let vm = vm.launch();
        let address = Address::Vsock(10, PORT);
        drop(address.reach());
        peer::call(&address, 100, 8192);
        peer::call(&address, 2, 1 << 20);
        vm.end();
    });
}

#[test]
fn the_guest_connects_to_the_host_a_hundred_times_at_once() {
    let port = host_echoes();
    both(|transport| {
        let calls =
            format!("peer call vsock:{HOST}:{port} 100 8192 && peer call vsock:{HOST}:{port} 2 1048576");
        guest(11, transport, &calls).run().assert_status(0);
    });
}

#[test]
fn messages_up_to_a_mebibyte_keep_their_bounds_both_ways() {
    const MESSAGES: u32 = PORT + 1;
    std::thread::spawn(|| Address::Seqpacket(ANY, MESSAGES).serve(peer::mirror));
    both(|transport| {
        let script = format!(
            "peer mirror seqpacket:{ANY}:{MESSAGES} & peer converse seqpacket:{HOST}:{MESSAGES} 3 && \
             echo the guest is content; wait"
        );
        let vm = guest(21, transport, &script).launch();
        peer::converse(Address::Seqpacket(21, MESSAGES).reach(), 3);
        vm.end_when("the guest is content");
    });
}

#[test]
fn a_half_closed_connection_still_answers() {
    both(|transport| {
        let vm = guest(12, transport, &format!("exec peer sink vsock:{ANY}:{PORT}")).launch();
        let address = Address::Vsock(12, PORT);
        for len in [0, 1, 1 << 20, 3 << 20] {
            peer::send(address.reach(), len);
        }
        vm.end();
    });
}

#[test]
fn a_host_that_vanishes_leaves_the_guest_at_work() {
    both(|transport| {
        let vm = guest(13, transport, &format!("exec peer echo vsock:{ANY}:{PORT}")).launch();
        let address = Address::Vsock(13, PORT);
        for _ in 0..20 {
            let mut gone = address.reach();
            // More than both sides hold, so that the guest's answers find nobody.
            gone.write_all(&[7; 100_000]).unwrap();
            drop(gone);
        }
        peer::call(&address, 5, 100_000);
        vm.end();
    });
}

#[test]
fn a_guest_that_vanishes_ends_its_connections_and_gives_its_context_id_back() {
    both(|transport| {
        let vm = guest(14, transport, &format!("exec peer echo vsock:{ANY}:{PORT}")).launch();
        let mut connection = Address::Vsock(14, PORT).reach();
        connection.write_all(b"anybody there?").unwrap();
        connection.read_exact(&mut [0; 14]).unwrap();
        vm.kill();
        // An end or a reset, and not that it was waited for in vain, which is this error.
        let end = connection.read(&mut [0; 1]).map_err(|why| why.kind());
        assert!(!matches!(end, Ok(1..) | Err(ErrorKind::WouldBlock)), "nobody is there: {end:?}");
    });
}

#[test]
fn a_context_id_that_is_taken_is_one_sentence() {
    let vm = guest(15, "pci", &format!("exec peer echo vsock:{ANY}:{PORT}")).launch();
    drop(Address::Vsock(15, PORT).reach());
    let second = guest(15, "pci", "true").run();
    second
        .assert_status(69)
        .assert_sentence(&["the context id 15 is in use by another machine of this host"]);
    vm.end();
}

#[test]
fn a_descriptor_with_its_context_id_set_can_be_given() {
    let node = peer::vsock_node(16);
    let vm = guest(16, "pci", &format!("exec peer echo vsock:{ANY}:{PORT}"));
    // The later flag would be refused as given twice, so the machine is described anew.
    let vm = vm.replace_flag("--vsock", &format!("cid=16,fd={}", node.as_raw_fd()));
    let vm = vm.launch();
    drop(node);
    peer::call(&Address::Vsock(16, PORT), 3, 1000);
    vm.end();
}

#[test]
fn descriptors_of_something_else_are_one_sentence() {
    let null = peer::inherited(std::fs::File::open("/dev/null").unwrap());
    for (fd, words) in [
        (
            null.as_raw_fd(),
            "the descriptor given with --vsock fd= cannot be used: it is no vhost-vsock device",
        ),
        (200, "there is no descriptor 200 that this process was started with"),
        (1, "descriptor 1 cannot be a device's"),
    ] {
        let vm = guest(17, "pci", "true").replace_flag("--vsock", &format!("cid=17,fd={fd}"));
        vm.run().assert_status(64).assert_sentence(&[words]);
    }
}

#[test]
fn the_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    let port = host_echoes();
    both(|transport| {
        let script = format!(
            "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport || cd /sys/bus/virtio/drivers/virtio_transport; \
             d=$(ls -d virtio*); i=0; \
             while [ $i -lt 100 ]; do \
               peer call vsock:{HOST}:{port} 1 200000 2> /dev/null & \
               echo $d > unbind; echo $d > bind; kill $! 2> /dev/null; wait; i=$((i+1)); done; \
             exec peer call vsock:{HOST}:{port} 10 10000"
        );
        guest(18, transport, &script).run().assert_status(0);
    });
}

#[test]
fn no_message_brings_the_guest_out_to_the_vmm_over_pci() {
    let port = host_echoes();
    let exits = |messages: u32| {
        let script = format!("exec peer ping vsock:{HOST}:{port} {messages}");
        let outcome = guest(19, "pci", &script).flag("--report", "json").run();
        outcome.assert_status(0);
        outcome.returns_to_userspace()
    };
    let (few, many) = (exits(1), exits(2001));
    println!("returns to vmm: {few} for 1 message, {many} for 2001");
    assert!(many < few + 100, "{few} for 1 message, {many} for 2001");
}

#[test]
fn vsock_keeps_the_rules_of_virtio() {
    conforms(|| Box::new(Vsock::open(20, &Confinement::none()).expect("the host has vhost-vsock")));
}
