//! Memory given back: what the guest gives, the host's process has no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fmt;
use std::fs;

use tests::{Running, TestVm, status_field, until};

const MIB: u64 = 1 << 20;

/// A guest of 256 MiB with `balloon` that runs `script`.
fn guest(transport: &str, balloon: &str, shared: &str, script: &str) -> TestVm {
    let vm = TestVm::boot().flag("--transport", transport).memory(&format!("256M,shared={shared}"));
    vm.flag("--balloon", balloon).command(&["sh", "-c", script])
}

/// The number of bytes in a value of /proc.
fn bytes(value: &str) -> u64 {
    value.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// Memory of process `id`: what it has mapped and is there.
fn resident(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("the process is there");
    bytes(text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line"))
}

/// The most that it ever was. What the guest has used and given back since is in it, however late it is looked at.
fn most_resident(id: u32) -> u64 {
    bytes(&status_field(id, "VmHWM").expect("the process is there"))
}

/// Waits until the process has less than `limit` bytes, of the `most` that it once had.
fn falls_below(limit: u64, most: u64, vm: &Running) {
    let id = vm.id();
    let name = fmt::from_fn(|f| write!(f, "{} of {most} bytes have become less than {limit}", resident(id)));
    until(name, || resident(id) < limit);
}

/// The guest uses 100 MiB, frees them, and says so.
const USE: &str = "dd if=/dev/zero of=/tmp/f bs=1M count=100 2> /dev/null && rm /tmp/f && echo used";

#[test]
fn what_the_balloon_takes_the_host_gets_back() {
    for (transport, shared) in [("pci", "off"), ("mmio", "on")] {
        let script = format!(
            "{USE} && modprobe virtio_balloon && \
             until [ $(grep balloon_inflate /proc/vmstat | cut -d' ' -f2) -ge 32768 ]; do sleep 1; done; \
             echo inflated; read word; modprobe -r virtio_balloon; {USE} again; sleep 1000"
        );
        let mut vm = guest(transport, "size=128M", shared, &script).launch();
        vm.wait_for("inflated");
        let most = most_resident(vm.id());
        println!("over {transport}, shared={shared}: {most} bytes at most, {} now", resident(vm.id()));
        assert!(most > 150 * MIB, "{most} bytes at most");
        falls_below(136 * MIB, most, &vm);
        vm.tell("deflate");
        vm.wait_for("used again");
        vm.end();
    }
}

#[test]
fn free_pages_that_are_reported_go_back_to_the_host() {
    for (transport, shared) in [("pci", "off"), ("mmio", "on")] {
        let script = format!("modprobe virtio_balloon; {USE}; sleep 1000");
        let mut vm = guest(transport, "on,free_page_reporting=on", shared, &script).launch();
        vm.wait_for("used");
        let most = most_resident(vm.id());
        println!("over {transport}, shared={shared}: {most} bytes at most, {} now", resident(vm.id()));
        assert!(most > 120 * MIB, "{most} bytes at most");
        // The driver reports a sixteenth of what is free every two seconds.
        falls_below(most - 80 * MIB, most, &vm);
        vm.end();
    }
}

#[test]
fn a_guest_that_runs_out_of_memory_takes_some_from_its_balloon() {
    let script = "modprobe virtio_balloon; \
        until [ $(grep balloon_inflate /proc/vmstat | cut -d' ' -f2) -ge 32768 ]; do sleep 1; done; \
        mount -t tmpfs -o size=100% room /mnt; \
        dd if=/dev/zero of=/mnt/f bs=1M count=90 2> /dev/null || exit 1; \
        [ $(grep balloon_deflate /proc/vmstat | cut -d' ' -f2) -gt 0 ] && wc -c < /mnt/f";
    for transport in ["pci", "mmio"] {
        let vm = guest(transport, "size=128M,deflate_on_oom=on", "off", script);
        let outcome = vm.serial("null").flag("--console", "stdio").run();
        assert!(outcome.assert_status(0).output.contains("94371840"), "{transport}: {outcome}");
    }
}

#[test]
fn the_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    for transport in ["pci", "mmio"] {
        let script = "modprobe virtio_balloon; cd /sys/bus/virtio/drivers/virtio_balloon; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        dd if=/dev/zero of=/tmp/f$((i % 3)) bs=64k count=16 2> /dev/null & \
                        echo $d > unbind || exit 1; echo $d > bind || exit 2; wait; i=$((i+1)); done; echo done";
        let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
        let vm = vm.flag("--balloon", "size=32M,free_page_reporting=on,deflate_on_oom=on");
        let outcome = vm.command(&["sh", "-c", script]).run();
        assert!(outcome.assert_status(0).output.ends_with("done\n"), "{transport}: {outcome}");
    }
}
