//! Real guest drivers over both transports: every virtio device found, used, unbound and bound again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use tests::TestVm;

/// A guest whose command talks over the virtio console, the kernel over nothing.
fn on_the_console(transport: &str) -> TestVm {
    TestVm::boot()
        .serial("null")
        .flag("--console", "stdio")
        .flag("--rng", "on")
        .flag("--transport", transport)
}

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

#[test]
fn a_commands_output_comes_over_the_virtio_console_alone() {
    both(|transport| {
        let outcome = on_the_console(transport).command(&["sh", "-c", "echo to the host; exit 5"]).run();
        outcome.assert_status(5);
        assert_eq!(outcome.output, "to the host\n", "{transport}: {outcome}");
    });
}

#[test]
fn the_first_output_is_a_milestone_of_the_boot_report() {
    let vm = on_the_console("pci").flag("--report", "json");
    let outcome = vm.command(&["echo", "to the host"]).run();
    outcome.assert_status(0);
    assert_eq!(outcome.output, "to the host\n", "{outcome}");
    assert!(outcome.errors.contains("first_console_byte"), "{outcome}");
}

#[test]
fn a_lot_of_output_arrives_whole() {
    both(|transport| {
        let script = "i=0; while [ $i -lt 7000 ]; do echo line $i; i=$((i+1)); done";
        let outcome = on_the_console(transport).command(&["sh", "-c", script]).run();
        outcome.assert_status(0);
        // More than the host's side of a console holds, and the ring's places many times over.
        let expected: String = (0..7000).map(|i| format!("line {i}\n")).collect();
        assert!(outcome.output == expected, "{transport}: {} bytes came", outcome.output.len());
    });
}

#[test]
fn random_bytes_come_from_the_host() {
    both(|transport| {
        let script = "cat /sys/class/misc/hw_random/rng_current; \
                      head -c 65536 /dev/hwrng | gzip -c | wc -c";
        let outcome = on_the_console(transport).command(&["sh", "-c", script]).run();
        outcome.assert_status(0);
        let mut lines = outcome.output.lines();
        assert!(lines.next().is_some_and(|name| name.starts_with("virtio_rng")), "{transport}: {outcome}");
        let compressed: u32 = lines.next().expect("a number").parse().expect("a number");
        assert!(compressed > 65_000, "{transport}: {outcome}");
    });
}

/// How long `script` takes in the guest, in hundredths of a second. It may write to the console.
fn hundredths(vm: TestVm, script: &str) -> u32 {
    let script = format!(
        "t() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}; a=$(t); {script} || exit 1; b=$(t); echo $((b - a))"
    );
    let outcome = vm.command(&["sh", "-c", &script]).run();
    outcome.assert_status(0);
    // The console's output may be in front of it.
    let last = outcome.output.trim_end().rsplit(['\n', '\0']).next().expect("a line");
    last.parse().unwrap_or_else(|_| panic!("{outcome}"))
}

#[test]
fn limits_of_the_entropy_device_are_kept() {
    both(|transport| {
        for limit in ["bw=16K", "ops=256"] {
            let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
            let vm = vm.flag("--rng", &format!("on,{limit}"));
            // A driver asks for 64 bytes at once: four seconds' worth, of which a tenth's may come at once.
            let took = hundredths(vm, "head -c 65536 /dev/hwrng > /dev/null");
            assert!((350..3000).contains(&took), "{limit} over {transport}: {took}");
        }
    });
}

#[test]
fn limits_of_the_console_are_kept() {
    both(|transport| {
        let vm = TestVm::boot().serial("null").flag("--transport", transport);
        let vm = vm.flag("--console", "stdio,bw=64K");
        let took = hundredths(vm, "dd if=/dev/zero bs=4k count=64 2> /dev/null");
        assert!((350..3000).contains(&took), "{transport}: {took}");
    });
}

#[test]
fn the_entropy_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    both(|transport| {
        let script = "cd /sys/bus/virtio/drivers/virtio_rng; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        head -c 4096 /dev/hwrng > /dev/null 2>&1 & \
                        echo $d > unbind || exit 1; echo $d > bind || exit 2; wait; i=$((i+1)); done; \
                      head -c 16 /dev/hwrng | wc -c";
        let outcome = on_the_console(transport).command(&["sh", "-c", script]).run();
        outcome.assert_status(0);
        assert!(outcome.output.ends_with("16\n"), "{transport}: {outcome}");
    });
}

/// The guest's process 1: the image's own would have the console open for ever, and Linux has no new one in its place
/// while somebody has the old one open.
const REBINDS_THE_CONSOLE: &str = "#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2> /dev/null
modprobe TRANSPORT; modprobe virtio_console
until [ -e /dev/hvc0 ]; do usleep 10000; done
cd /sys/bus/virtio/drivers/virtio_console; d=$(ls -d virtio*); i=0
while [ $i -lt 100 ]; do
  (while echo much ado; do :; done > /dev/hvc0) 2> /dev/null & a=$!
  head -c 100 /dev/hvc0 > /dev/null 2>&1 & b=$!
  usleep 10000
  echo $d > unbind || break; echo $d > bind || break
  kill $a $b 2> /dev/null; wait; i=$((i+1))
done
echo at last $i > /dev/hvc0 && echo bound again $i times
poweroff -f
";

#[test]
fn the_console_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    both(|transport| {
        let folder = tests::scratch();
        let (init, log) = (folder.path().join("init"), folder.path().join("hvc0.txt"));
        std::fs::write(&init, REBINDS_THE_CONSOLE.replace("TRANSPORT", &format!("virtio_{transport}")))
            .expect("written");
        let cmdline = "console=ttyS0 quiet panic=-1 8250.nr_uarts=1 rdinit=/rebinds";
        let vm = TestVm::boot().flag("--transport", transport).flag("--cmdline", cmdline);
        let vm = vm.flag("--console", &format!("file={}", log.display()));
        let outcome = vm.program("rebinds", &init).command(&["true"]).run();
        assert!(outcome.output.contains("bound again 100 times"), "{transport}: {outcome}");
        let said = std::fs::read_to_string(&log).expect("what the console said");
        assert!(said.contains("much ado") && said.contains("at last 100"), "{transport}: {said}");
    });
}

#[test]
fn four_processors_share_the_devices() {
    both(|transport| {
        let script = "for i in 1 2 3 4; do head -c 4096 /dev/hwrng > /dev/null & done; wait; nproc";
        let outcome = on_the_console(transport).cpus(4).command(&["sh", "-c", script]).run();
        assert_eq!(outcome.assert_status(0).output, "4\n", "{transport}: {outcome}");
    });
}

#[test]
fn other_kernels_find_the_devices_too() {
    for flavour in ["6.1-generic", "6.12-cloud"] {
        both(|transport| {
            let vm = TestVm::of(flavour).serial("null").flag("--console", "stdio");
            let outcome =
                vm.flag("--rng", "on").flag("--transport", transport).command(&["echo", "ok"]).run();
            assert_eq!(outcome.assert_status(0).output, "ok\n", "{flavour} over {transport}: {outcome}");
        });
    }
}

#[test]
fn a_console_nobody_reads_does_not_hold_the_guest_up() {
    both(|transport| {
        let vm = TestVm::boot().serial("null").flag("--transport", transport);
        let socket = format!("socket={}", vm.scratch().join("console.sock").display());
        let script = "i=0; while [ $i -lt 5000 ]; do echo a line that nobody ever reads $i; i=$((i+1)); done";
        vm.flag("--console", &socket).command(&["sh", "-c", script]).run().assert_status(0);
    });
}
