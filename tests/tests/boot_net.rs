//! The network that `cargo xtask boot --net` gives a guest: it reaches its host and what lies beyond, and nothing of it
//! is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use tests::net::run;
use tests::{TestVm, until};

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
    let conf = "/proc/sys/net/ipv4/conf";
    [
        "ip netns list",
        "ip -o link",
        "ip route",
        "nft list ruleset",
        "cat /proc/sys/net/ipv4/ip_forward",
        &format!("grep -r . {conf}/all {conf}/default {conf}/lo"),
        "find /run -maxdepth 1 -name kiwi-net*",
    ]
    .map(run)
    .concat()
}

/// Answers requests at `port` with a page, for ever, and tells where they come from.
fn serve(port: u16) -> Receiver<IpAddr> {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.expect("a client");
            // Whether or not somebody listens.
            let _ = tell.send(client.peer_addr().expect("an address").ip());
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
    told
}

/// Runs `test` on a host of its own: a network namespace without anything yet, where sysctls may be set.
fn on_a_host_of_its_own(test: impl FnOnce() + Send + 'static) {
    let host = move || {
        // This thread and what it starts are alone there.
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        run("ip link set lo up");
        test();
    };
    thread::spawn(host).join().expect("the test passes");
}

/// The host's address towards what lies beyond it, and the address there.
const UPLINK: &str = "10.77.0.1";
const BEYOND: &str = "10.77.0.2";

/// A machine beyond this host, with no way back to anything but the host: a namespace, gone with the value.
struct Beyond(String);

impl Beyond {
    fn new() -> Self {
        let name = format!("beyond{}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip link add uplink type veth peer name eth0 netns {name}"));
        run(&format!("ip address add {UPLINK}/30 dev uplink"));
        run("ip link set uplink up");
        run(&format!("ip -n {name} address add {BEYOND}/30 dev eth0"));
        run(&format!("ip -n {name} link set eth0 up"));
        // Which the kernel tells a moment later, and what is compared afterwards shall have begun so.
        until("the uplink is up", || run("ip -o link show uplink").contains("state UP"));
        Self(name)
    }

    fn serve(&self, port: u16) -> Receiver<IpAddr> {
        let namespace = File::open(format!("/run/netns/{}", self.0)).expect("it is there");
        let there = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("it can be entered");
            serve(port)
        };
        thread::spawn(there).join().expect("it serves")
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        run(&format!("ip netns del {}", self.0));
    }
}

#[test]
fn the_guest_reaches_its_host_and_nothing_is_left_behind() {
    serve(8088);
    let before = marks();
    let script =
        "ping -c 1 -W 60 host > /dev/null && wget -q -O - host:8088/ && cat /etc/resolv.conf && exit 5";
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
        let mut vm = guest(id, "ping -c 1 -W 60 host > /dev/null && echo up; sleep 1000").launch();
        vm.wait_for("up");
        vm
    });
    assert!(marks().contains("kiwi-net34") && marks().contains("kiwi-net35"));
    for vm in both {
        vm.end();
    }
    assert_eq!(marks(), before);
}

#[test]
fn the_guest_reaches_what_lies_beyond_its_host_by_the_hosts_address() {
    on_a_host_of_its_own(|| {
        let beyond = Beyond::new();
        let clients = beyond.serve(8088);
        // What forwarding would change in passing: this host takes no redirects, and one of its links forwards.
        run("sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.uplink.forwarding=1");
        let before = marks() + &run("sysctl net.ipv4.conf.uplink");
        let script = format!("ping -c 1 -W 60 {BEYOND} && wget -q -O - {BEYOND}:8088/ && exit 5");
        let outcome = guest("36", &script).run();
        outcome.assert_status(5);
        assert!(outcome.output.contains("hello from the host"), "{outcome}");
        assert_eq!(outcome.errors, "", "{outcome}");
        assert_eq!(clients.recv().expect("a client").to_string(), UPLINK);
        assert_eq!(marks() + &run("sysctl net.ipv4.conf.uplink"), before);
    });
}

/// Runs a guest where `nft` is what `path` has of it: it is told why nothing beyond the host is reached, the host is.
fn reaches_its_host_alone(id: &str, path: &str, why: &str) {
    let beyond = Beyond::new();
    let before = marks();
    let script =
        format!("ping -c 1 -W 60 host > /dev/null && ! ping -c 1 -W 1 {BEYOND} > /dev/null && exit 5");
    let command = ["env", path, "sh", "-c", HOSTS_SIDE, "network", id];
    let outcome = guest(id, &script).by(&command).run();
    outcome.assert_status(5);
    let sentence =
        format!("xtask: --net: no address translation here ({why}); the guest reaches this host alone\n");
    assert_eq!(outcome.errors, sentence, "{outcome}");
    assert_eq!(marks(), before);
    drop(beyond);
}

#[test]
fn a_host_without_nft_says_so_and_the_guest_reaches_it_alone() {
    // Debian has nft in /usr/sbin, and all else that is needed in /usr/bin.
    on_a_host_of_its_own(|| reaches_its_host_alone("37", "PATH=/usr/bin:/bin", "nft is not installed"));
}

#[test]
fn a_host_that_refuses_translation_says_so_and_the_guest_reaches_it_alone() {
    on_a_host_of_its_own(|| {
        let folder = tests::scratch();
        // No kernel here that refuses: one that does has nft say this.
        let nft = folder.path().join("nft");
        let script = "#!/bin/sh\necho 'Error: Could not process rule: Operation not supported' >&2\necho ^^^ >&2\nexit 1\n";
        std::fs::write(&nft, script).unwrap();
        run(&format!("chmod +x {}", nft.display()));
        let path = format!("PATH={}:/usr/bin:/bin", folder.path().display());
        reaches_its_host_alone("38", &path, "Error: Could not process rule: Operation not supported");
    });
}
