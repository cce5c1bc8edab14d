//! A pod's network as Kata Containers lays it out: a network namespace with one end of a veth pair, a tap beside it, and
//! every packet that comes into one of the two redirected out of the other. The guest takes the place of the veth's end,
//! with its address; the namespace's own network code sees no packet.

mod sys;

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::TestVm;

/// The pod's Ethernet address, which is its veth's and its guest's.
pub const MAC: &str = "52:54:00:88:00:05";
/// The pod's addresses, and those of the host beyond the veth.
pub const POD: [&str; 2] = ["10.88.0.5", "fd00:88::5"];
/// The host's addresses.
pub const HOST: [&str; 2] = ["10.88.0.1", "fd00:88::1"];
/// The tap, as Kata names it.
pub const TAP: &str = "tap0_kata";

static PODS: AtomicU32 = AtomicU32::new(0);

/// A pod's network, gone when dropped.
#[derive(Debug)]
pub struct Pod {
    namespace: String,
    mtu: u16,
}

/// Runs a command, which must succeed; words are split at spaces.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let out = command.args(words).output().unwrap_or_else(|why| panic!("{line}: {why}"));
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Pod {
    /// A pod whose links carry packets of 1500 bytes, and whose tap has many queues.
    pub fn new() -> Self {
        Self::with_mtu(1500)
    }

    /// A pod whose links carry packets of `mtu` bytes.
    pub fn with_mtu(mtu: u16) -> Self {
        // A test that was killed has left its own behind, and its end of the pair, of which there is one.
        let _ = Command::new("ip").args(["link", "del", "veth-pod"]).stderr(Stdio::null()).status();
        let namespace = format!("pod{}-{}", std::process::id(), PODS.fetch_add(1, Ordering::Relaxed));
        run(&format!("ip netns add {namespace}"));
        let pod = Self { namespace, mtu };
        pod.lay();
        pod
    }

    fn lay(&self) {
        let (namespace, mtu) = (&self.namespace, self.mtu);
        run(&format!("ip link add veth-pod mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}"));
        run("sysctl -qw net.ipv6.conf.veth-pod.accept_dad=0");
        run(&format!("ip address add {}/16 dev veth-pod", HOST[0]));
        run(&format!("ip address add {}/64 dev veth-pod nodad", HOST[1]));
        run("ip link set veth-pod up");
        self.inside(&format!("ip link set eth0 address {MAC}"));
        self.inside(&format!("ip address add {}/16 dev eth0", POD[0]));
        self.inside("ip link set eth0 up");
        self.inside(&format!("ip tuntap add {TAP} mode tap multi_queue vnet_hdr"));
        self.inside(&format!("ip link set {TAP} mtu {mtu} up"));
        for (from, to) in [("eth0", TAP), (TAP, "eth0")] {
            self.inside(&format!("tc qdisc add dev {from} handle ffff: ingress"));
            self.inside(&format!(
                "tc filter add dev {from} parent ffff: protocol all prio 49152 u32 match u8 0 0 \
                 action mirred egress redirect dev {to}"
            ));
        }
    }

    /// Runs a command in the pod's namespace.
    pub fn inside(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.namespace))
    }

    /// A machine in the namespace, whose guest takes the pod's place and then runs `script`; `keys` are more of
    /// `--net`'s, the tap included.
    pub fn guest(&self, keys: &str, script: &str) -> TestVm {
        let mtu = self.mtu;
        let script = format!(
            "modprobe virtio_net && up() {{ \
               echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; \
               ip address add {}/16 dev eth0; ip address add {}/64 dev eth0; \
               ip link set eth0 mtu {mtu} up; }}; \
             until [ -e /sys/class/net/eth0 ]; do usleep 10000; done; ip link set lo up; up; {script}",
            POD[0], POD[1]
        );
        TestVm::boot()
            .peer()
            .by(&["ip", "netns", "exec", &self.namespace])
            .flag("--net", &format!("mac={MAC},{keys}"))
            .command(&["sh", "-c", &script])
    }

    /// Open queues of the tap, for a child to inherit, with an older header and offloads that nobody asked for.
    pub fn queues(&self, count: usize) -> Vec<File> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).expect("the namespace is there");
        let open = move || {
            // This thread alone goes there.
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("the namespace can be entered");
            (0..count).map(|_| sys::queue(TAP).expect("a queue of the tap")).collect::<Vec<_>>()
        };
        let queues = std::thread::spawn(open).join().expect("queues");
        queues.into_iter().map(crate::peer::inherited).collect()
    }
}

impl Default for Pod {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Both ends of the veth go with the namespace, when its last process has gone, and so does the tap.
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}
