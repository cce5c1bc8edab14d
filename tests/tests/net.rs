//! The network device through a pod's network, with the kernel's vhost-net and without, over both transports.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::os::fd::AsRawFd;
use std::sync::Once;
use std::thread;
use std::time::Duration;

use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::conformance::conforms;
use tests::net::{HOST, POD, Pod, TAP, run};
use tests::peer::{self, Address};
use tests::threads;
use virtio_net::{Net, Options, Tap, Vhost};

/// How much a transfer moves, rings many times over; emulated hardware would need an hour for all of them at 200 MiB,
/// which is what `KIWI_NET_BYTES=209715200` has them move.
fn bytes() -> usize {
    std::env::var("KIWI_NET_BYTES").map_or(4 << 20, |text| text.parse().expect("a number of bytes"))
}

const SINK: u16 = 5000;
const ECHO: u16 = 5001;
const DATAGRAMS: u16 = 5002;

/// An address and a port, of IPv4 or IPv6.
fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// Has the host answer, at all its addresses, for as long as the test program runs.
fn host_answers() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        thread::spawn(|| Address::Tcp(at("::", SINK)).serve(peer::sink));
        thread::spawn(|| Address::Tcp(at("::", ECHO)).serve(peer::echo));
        thread::spawn(|| peer::datagrams(&at("::", DATAGRAMS)));
    });
}

/// What answers in the guest, as a line of its script.
fn guest_answers() -> String {
    format!("peer sink tcp:[::]:{SINK} & peer echo tcp:[::]:{ECHO} & peer datagrams [::]:{DATAGRAMS} & ")
}

/// Who carries the packets, over which transport.
const BY_KERNEL: [(&str, &str); 2] = [("on", "pci"), ("on", "mmio")];
const BY_US: [(&str, &str); 2] = [("off", "pci"), ("off", "mmio")];

/// Ping, TCP and UDP, both ways, over IPv4 and IPv6.
fn everything_passes((vhost, transport): (&str, &str)) {
    host_answers();
    let pod = Pod::new();
    let mut script = guest_answers() + "echo up; ";
    for host in HOST {
        // As long as a stall may last, for one that has no answer is not sent again.
        for size in [56, 0, 1400] {
            script += &format!("ping -c 1 -W 60 -s {size} {host} && ");
        }
        script += &format!("peer call tcp:{} 3 50000 && ", at(host, ECHO));
        script += &format!(
            "peer volley {0} 20 1 && peer volley {0} 20 1400 && peer volley {0} 3 20000 && ",
            at(host, DATAGRAMS)
        );
    }
    script += "echo the guest is content || exit 1; wait";
    let mut vm =
        pod.guest(&format!("tap={TAP},vhost={vhost}"), &script).flag("--transport", transport).launch();
    // Before that the host would look for the guest in vain, and drop what it owes it when it gives up: then the guest's
    // first ping had no answer.
    vm.wait_for("up");
    for ip in POD {
        peer::call(&Address::Tcp(at(ip, ECHO)), 3, 50_000);
        run(&format!("busybox ping -c 2 {ip}"));
        run(&format!("busybox ping -c 2 -s 0 {ip}"));
        for (n, len) in [(20, 1), (20, 1400), (3, 20_000)] {
            peer::volley(&at(ip, DATAGRAMS), n, len);
        }
    }
    vm.end_when("the guest is content");
}

#[test]
fn everything_passes_by_the_kernel_over_pci() {
    everything_passes(BY_KERNEL[0]);
}

#[test]
fn everything_passes_by_us_over_pci() {
    everything_passes(BY_US[0]);
}

#[test]
fn everything_passes_by_the_kernel_over_mmio() {
    everything_passes(BY_KERNEL[1]);
}

#[test]
fn everything_passes_by_us_over_mmio() {
    everything_passes(BY_US[1]);
}

/// A transfer each way, with `keys` and a guest of `cpus` processors.
fn transfer(pod: &Pod, keys: &str, cpus: u8) {
    host_answers();
    let len = bytes();
    let script = format!(
        "{} peer send tcp:{} {len} && echo the guest is content; wait",
        guest_answers(),
        at(HOST[0], SINK)
    );
    let vm = pod.guest(&format!("tap={TAP},{keys}"), &script).cpus(cpus).within(3000).launch();
    let began = std::time::Instant::now();
    peer::send(Address::Tcp(at(POD[0], SINK)).reach(), len);
    println!("{keys}: {len} bytes to the guest within {:?} of its start", began.elapsed());
    vm.end_when("the guest is content");
}

/// A test a line, for each of them takes long at its full size.
macro_rules! much_passes_unchanged_both_ways {
    ($($name:ident: $keys:literal by $cpus:literal;)*) => {
        $(#[test]
        fn $name() {
            transfer(&Pod::new(), $keys, $cpus);
        })*
    };
}

much_passes_unchanged_both_ways! {
    much_passes_unchanged_by_the_kernel: "vhost=on,offload=on" by 1;
    much_passes_unchanged_by_the_kernel_without_offloads: "vhost=on,offload=off" by 1;
    much_passes_unchanged_by_us: "vhost=off,offload=on" by 1;
    much_passes_unchanged_by_us_without_offloads: "vhost=off,offload=off" by 1;
    much_passes_unchanged_by_the_kernel_over_four_queues: "vhost=on,offload=on,queues=4" by 4;
    much_passes_unchanged_by_the_kernel_over_four_queues_without_offloads: "vhost=on,offload=off,queues=4" by 4;
    much_passes_unchanged_by_us_over_four_queues: "vhost=off,offload=on,queues=4" by 4;
    much_passes_unchanged_by_us_over_four_queues_without_offloads: "vhost=off,offload=off,queues=4" by 4;
}

#[test]
fn limits_are_kept_each_way() {
    host_answers();
    const LEN: usize = 1 << 20;
    let pod = Pod::new();
    let script = format!(
        "{} t() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}; a=$(t); peer send tcp:{} {LEN} || exit 1; \
         b=$(t); echo it took $((b - a)) hundredths; wait",
        guest_answers(),
        at(HOST[0], SINK)
    );
    let keys = format!("tap={TAP},bw=256K");
    let mut vm = pod.guest(&keys, &script).flag("--log-level", "info").launch();
    vm.wait_for("hundredths");
    let said = vm.said();
    let took = said.split_once("it took ").and_then(|(_, rest)| rest.split_once(' ')).expect("a time").0;
    // Four seconds, of which a tenth's worth may come at once, and the last packets need not be paid for.
    assert!((340..3000).contains(&took.parse::<u32>().expect("a number")), "{said}");
    let sink = Address::Tcp(at(POD[0], SINK)).reach();
    let began = std::time::Instant::now();
    peer::send(sink, LEN);
    assert!(began.elapsed() > std::time::Duration::from_millis(3400), "{:?}", began.elapsed());
    let outcome = vm.end();
    outcome
        .assert_logged(&["vmm itself carries the packets of the tap tap0_kata, for the kernel's vhost-net"]);
    pod.guest(&format!("{keys},vhost=on"), "true")
        .run()
        .assert_status(64)
        .assert_sentence(&["keeps no limits"]);
}

#[test]
fn jumbo_packets_pass() {
    host_answers();
    for vhost in ["on", "off"] {
        for offload in ["on", "off"] {
            let pod = Pod::with_mtu(9000);
            let script = format!(
                "[ $(cat /sys/class/net/eth0/mtu) = 9000 ] && ping -c 2 -s 8900 {} && \
                 peer volley {} 10 8900 && peer send tcp:{} 1000000",
                HOST[0],
                at(HOST[0], DATAGRAMS),
                at(HOST[0], SINK)
            );
            let keys = format!("tap={TAP},vhost={vhost},offload={offload},mtu=9000");
            pod.guest(&keys, &script).run().assert_status(0);
        }
    }
}

#[test]
fn queues_and_vhosts_that_a_launcher_opened_are_used() {
    host_answers();
    for (count, vhost) in [(1, true), (2, true), (2, false)] {
        let pod = Pod::new();
        let queues = pod.queues(count);
        let nodes: Vec<_> = (0..if vhost { count } else { 0 })
            .map(|_| std::fs::File::options().read(true).write(true).open("/dev/vhost-net").unwrap())
            .map(peer::inherited)
            .collect();
        let list = |files: &[std::fs::File]| {
            files.iter().map(|file| file.as_raw_fd().to_string()).collect::<Vec<_>>().join(":")
        };
        let mut keys = format!("fd={},vhost=off", list(&queues));
        if vhost {
            keys = format!("fd={},vhostfd={}", list(&queues), list(&nodes));
        }
        let script = format!("ping -c 2 {} && peer call tcp:{} 4 100000", HOST[1], at(HOST[0], ECHO));
        let cpus = u8::try_from(count).unwrap();
        let outcome = pod.guest(&keys, &script).cpus(cpus).run();
        outcome.assert_status(0);
    }
}

#[test]
fn no_packet_brings_the_guest_out_to_the_vmm_over_pci() {
    host_answers();
    for vhost in ["on", "off"] {
        let pod = Pod::new();
        let exits = |packets: u32| {
            let script = format!("peer volley {} {packets} 64", at(HOST[0], DATAGRAMS));
            let vm = pod.guest(&format!("tap={TAP},vhost={vhost}"), &script).flag("--report", "json");
            vm.run().assert_status(0).returns_to_userspace()
        };
        let (few, many) = (exits(1), exits(1001));
        println!("returns to vmm with vhost={vhost}: {few} for 1 packet, {many} for 1001");
        assert!(many < few + 100, "vhost={vhost}: {few} for 1 packet, {many} for 1001");
    }
}

/// Processor time of the threads of `process` whose names begin so, in hundredths of a second.
fn ticks(process: u32, name: &str) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap();
    let stats = tasks.map(|task| stat(task.unwrap()));
    let of = |stat: String| {
        let (head, rest) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<_> = rest.split(' ').collect();
        // utime and stime are the 14th and the 15th, the state is the third (proc_pid_stat(5)).
        let time = |at: usize| fields[at - 3].parse::<u64>().unwrap();
        if head.contains(&format!("({name}")) { time(14) + time(15) } else { 0 }
    };
    stats.map(of).sum()
}

#[test]
fn a_tap_that_is_deleted_is_a_link_that_goes_down() {
    for vhost in ["on", "off"] {
        let pod = Pod::new();
        // A driver that comes anew finds the link down, too.
        let script = "echo up; while [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do \
                        ping -c 1 -W 1 10.88.0.1 > /dev/null; done; \
                      cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*); \
                      echo $d > unbind; echo $d > bind; up; echo down; read word; \
                      echo carrier $(cat /sys/class/net/eth0/carrier); exit 7";
        let mut vm = pod.guest(&format!("tap={TAP},vhost={vhost}"), script).launch();
        vm.wait_for("up");
        pod.inside(&format!("ip link del {TAP}"));
        vm.wait_for("down");
        let before = ticks(vm.id(), "net");
        std::thread::sleep(Duration::from_secs(2));
        let busy = ticks(vm.id(), "net") - before;
        assert!(busy < 50, "vhost={vhost}: {busy} hundredths of a second in two for a tap that is gone");
        vm.tell("go on");
        let outcome = vm.wait();
        outcome.assert_status(7);
        assert!(outcome.output.contains("carrier 0"), "vhost={vhost}: {outcome}");
        let line = format!("the tap {TAP} is gone; the guest's link is down");
        assert!(outcome.errors.contains(&line), "vhost={vhost}: {outcome}");
    }
}

/// Unbinds and binds the driver a hundred times while packets pass.
fn is_bound_again((vhost, transport): (&str, &str)) {
    host_answers();
    let pod = Pod::new();
    let script = format!(
        "cd /sys/bus/virtio/drivers/virtio_net; d=$(ls -d virtio*); i=0; \
             while [ $i -lt 100 ]; do \
               peer call tcp:{0} 1 1000000 2> /dev/null & a=$!; ping -A -c 50 -W 1 {1} > /dev/null & b=$!; \
               echo $d > unbind; echo $d > bind; kill -9 $a $b 2> /dev/null; wait; up; i=$((i+1)); done; \
             exec peer call tcp:{0} 3 10000",
        at(HOST[0], ECHO),
        HOST[0]
    );
    let vm = pod.guest(&format!("tap={TAP},vhost={vhost}"), &script).flag("--transport", transport);
    vm.run().assert_status(0);
}

#[test]
fn the_driver_is_bound_again_a_hundred_times_under_load_by_the_kernel_over_pci() {
    is_bound_again(BY_KERNEL[0]);
}

#[test]
fn the_driver_is_bound_again_a_hundred_times_under_load_by_us_over_pci() {
    is_bound_again(BY_US[0]);
}

#[test]
fn the_driver_is_bound_again_a_hundred_times_under_load_by_the_kernel_over_mmio() {
    is_bound_again(BY_KERNEL[1]);
}

#[test]
fn the_driver_is_bound_again_a_hundred_times_under_load_by_us_over_mmio() {
    is_bound_again(BY_US[1]);
}

#[test]
fn what_is_no_tap_or_no_vhost_is_one_sentence() {
    let pod = Pod::new();
    let null = peer::inherited(std::fs::File::open("/dev/null").unwrap());
    let vsock = peer::vsock_node(30);
    let queue = pod.queues(1);
    let null = null.as_raw_fd();
    pod.inside("ip tuntap add single mode tap vnet_hdr");
    for (keys, status, words) in [
        (format!("fd={null}"), 64, format!("descriptor {null} is no tap")),
        ("tap=eth0".to_owned(), 64, "the network interface eth0 is no tap".to_owned()),
        ("tap=single,queues=2".to_owned(), 64, "the tap single has a single queue".to_owned()),
        (
            format!("fd={},vhostfd={null}", queue[0].as_raw_fd()),
            64,
            "vhostfd= cannot be used: it is no vhost-net device".to_owned(),
        ),
        (
            format!("fd={},vhostfd={}", queue[0].as_raw_fd(), vsock.as_raw_fd()),
            64,
            "vhostfd= cannot be used: it is no vhost-net device".to_owned(),
        ),
    ] {
        pod.guest(&keys, "true").run().assert_status(status).assert_sentence(&[&words]);
    }
}

#[test]
fn a_tap_that_is_not_there_is_made_and_gone_with_the_machine() {
    let pod = Pod::new();
    let mut vm = pod
        .guest("tap=fresh,mtu=1400,vhost=auto", "echo up; cat /sys/class/net/eth0/mtu; sleep 1000")
        .launch();
    vm.wait_for("up");
    let link = pod.inside("ip -o link show fresh");
    assert!(link.contains("mtu 1400") && link.contains("UP"), "{link}");
    let second = pod.guest("tap=fresh", "true").run();
    second.assert_status(69).assert_sentence(&["the tap fresh is in use by another process"]);
    vm.end();
    assert!(!pod.inside("ip -o link").contains("fresh"));
}

#[test]
fn a_tap_of_another_users_and_a_missing_one_say_what_to_do() {
    let pod = Pod::new();
    let dropped = |keys: &str| {
        let vm = pod.guest(keys, "true");
        // Everything but the right to the network, as a user's process lacks it.
        vm.by_also(&["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]).run()
    };
    pod.inside("ip tuntap add others mode tap vnet_hdr user 12345");
    for (keys, words) in [
        ("tap=others", "the tap others belongs to another user; make it with: ip tuntap add"),
        (
            "tap=nowhere",
            "there is no tap nowhere and this user may not make it; make it first: ip tuntap add",
        ),
    ] {
        dropped(keys).assert_status(69).assert_sentence(&[words]);
    }
}

#[test]
fn every_thread_of_the_devices_has_a_filter() {
    let pod = Pod::new();
    for (vhost, names) in [("on", &["net0", "vsock"][..]), ("off", &["net0", "net0-0", "net0-1", "vsock"])] {
        let keys = format!("tap={TAP},queues=2,vhost={vhost}");
        let mut vm = pod.guest(&keys, "echo up; sleep 1000").flag("--vsock", "cid=31").launch();
        vm.wait_for("up");
        let all = threads(vm.id());
        for name in names {
            assert!(all.iter().any(|thread| thread.name == *name), "no thread {name} in {all:?}");
        }
        assert!(all.iter().all(|thread| thread.seccomp() == 2), "{all:?}");
        vm.end();
    }
}

#[test]
fn net_keeps_the_rules_of_virtio_when_the_kernel_works_its_queues() {
    for queues in [1, 2] {
        conforms(|| {
            let taps = Tap::open("conforms", queues, None).expect("a tap");
            let options = Options {
                mac: [2, 0, 0, 0, 0, 9],
                mtu: None,
                offload: true,
                vhost: Vhost::On,
                rates: Rates::default(),
            };
            Box::new(Net::new(0, taps, options, &Confinement::none()).expect("the host has vhost-net"))
        });
    }
}
