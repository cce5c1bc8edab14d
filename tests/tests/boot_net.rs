//! The network that `cargo xtask boot --net` gives a guest: it reaches its host, and nothing of it is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use tests::TestVm;
use tests::net::run;

const HOSTS_SIDE: &str = include_str!("../xtask/src/network.sh");
const GUESTS_SIDE: &str = include_str!("../xtask/src/network-guest.sh");

/// A machine in the network number `id`, whose guest runs `script` there.
fn guest(id: &str, script: &str) -> TestVm {
    TestVm::boot().by(&["sh", "-c", HOSTS_SIDE, "network", id]).flag("--net", "tap=tap0").command(&[
        "sh",
        "-c",
        GUESTS_SIDE,
        "network",
        id,
        "10.9.9.9",
        "sh",
        "-c",
        script,
    ])
}

/// All that a network leaves its marks on.
fn marks() -> String {
    ["ip netns list", "ip -o link", "ip route", "cat /proc/sys/net/ipv4/ip_forward"].map(run).concat()
}

/// Answers requests at `port` with a page, for ever.
fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            // The whole request, or the end of the connection would take the answer with it.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a request");
                request.push(byte[0]);
            }
            client.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from the host\n").expect("an answer");
        }
    });
}

#[test]
fn the_guest_reaches_its_host_and_nothing_is_left_behind() {
    serve(8088);
    let before = marks();
    let script = "ping -c 1 host > /dev/null && wget -q -O - host:8088/ && cat /etc/resolv.conf && exit 5";
    let outcome = guest("33", script).run();
    outcome.assert_status(5);
    assert!(outcome.output.contains("hello from the host"), "{outcome}");
    assert!(outcome.output.contains("nameserver 10.9.9.9"), "{outcome}");
    assert_eq!(marks(), before);
}

#[test]
fn two_at_once_do_not_meet_and_one_that_is_ended_by_a_signal_leaves_nothing_behind() {
    let before = marks();
    let both = ["34", "35"].map(|id| {
        let mut vm = guest(id, "ping -c 1 host > /dev/null && echo up; sleep 1000").launch();
        vm.wait_for("up");
        vm
    });
    assert!(marks().contains("kiwi-net34") && marks().contains("kiwi-net35"));
    for vm in both {
        vm.end();
    }
    assert_eq!(marks(), before);
}
