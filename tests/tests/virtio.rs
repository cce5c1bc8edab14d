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
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
        let outcome = on_the_console(transport).command(&["sh", "-c", script]).run();
        outcome.assert_status(0);
        let expected: String = (0..20000).map(|i| format!("line {i}\n")).collect();
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

#[test]
fn drivers_are_unbound_and_bound_again_a_hundred_times() {
    both(|transport| {
        // hvc0 is where this comes out, so it is the entropy device's turn.
        let script = "cd /sys/bus/virtio/drivers/virtio_rng; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        head -c 16 /dev/hwrng > /dev/null & \
                        echo $d > unbind; echo $d > bind; wait; i=$((i+1)); done; \
                      head -c 16 /dev/hwrng | wc -c";
        let outcome = on_the_console(transport).command(&["sh", "-c", script]).run();
        outcome.assert_status(0);
        assert!(outcome.output.ends_with("16\n"), "{transport}: {outcome}");
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
