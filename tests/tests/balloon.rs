//! Memory given back: what the guest gives, the host's process has no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tests::{TestVm, until, wait};

const MIB: u64 = 1 << 20;

/// A guest of 512 MiB with `balloon` that runs `script`; what it says comes in the file.
fn started(transport: &str, balloon: &str, shared: &str, script: &str) -> (TestVm, PathBuf, Child) {
    let vm = TestVm::boot().serial("null").flag("--transport", transport).command(&["sh", "-c", script]);
    let log = vm.scratch().join("console.txt");
    let vm = vm
        .flag("--console", &format!("file={}", log.display()))
        .memory(&format!("512M,shared={shared}"))
        .flag("--balloon", balloon);
    let child = vm.start();
    (vm, log, child)
}

fn said(log: &Path, words: &str) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains(words))
}

/// Memory of process `id`: what it has mapped and is there.
fn resident(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("a line");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

fn end(child: Child) {
    let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    wait(child, Duration::from_secs(30)).assert_status(143);
}

/// The guest uses 300 MiB, frees them, and says so before and after; then it goes on with what follows.
const USE: &str = "dd if=/dev/zero of=/tmp/f bs=1M count=300 2> /dev/null; rm /tmp/f; echo used; sleep 2;";

#[test]
fn what_the_balloon_takes_the_host_gets_back() {
    for (transport, shared) in [("pci", "off"), ("mmio", "on")] {
        let script = format!(
            "{USE} modprobe virtio_balloon; \
             until [ $(grep balloon_inflate /proc/vmstat | cut -d' ' -f2) -ge 65536 ]; do sleep 1; done; \
             echo inflated; sleep 3; modprobe -r virtio_balloon; \
             dd if=/dev/zero of=/tmp/f bs=1M count=230 2> /dev/null && echo got it back; sleep 1000"
        );
        let (_vm, log, child) = started(transport, "size=256M", shared, &script);
        until("the guest has used memory", || said(&log, "used"));
        let before = resident(child.id());
        assert!(before > 300 * MIB, "{before} bytes before");
        until("the balloon is inflated", || said(&log, "inflated"));
        let after = resident(child.id());
        assert!(after < 264 * MIB, "over {transport}, shared={shared}: {before} bytes before, {after} after");
        until("the guest has got its memory back", || said(&log, "got it back"));
        end(child);
    }
}

#[test]
fn free_pages_that_are_reported_go_back_to_the_host() {
    for (transport, shared) in [("pci", "off"), ("mmio", "on")] {
        let script = format!("modprobe virtio_balloon; {USE} sleep 1000");
        let (_vm, log, child) = started(transport, "on,free_page_reporting=on", shared, &script);
        until("the guest has used memory", || said(&log, "used"));
        let before = resident(child.id());
        let end_of_patience = Instant::now() + Duration::from_secs(90);
        // The driver reports a sixteenth of what is free every two seconds.
        while resident(child.id()) + 100 * MIB > before {
            assert!(
                Instant::now() < end_of_patience,
                "{before} bytes before, {} after",
                resident(child.id())
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        end(child);
    }
}

#[test]
fn a_guest_that_runs_out_of_memory_takes_some_from_its_balloon() {
    let script = "modprobe virtio_balloon; \
        until [ $(grep balloon_inflate /proc/vmstat | cut -d' ' -f2) -ge 98304 ]; do sleep 1; done; \
        mount -t tmpfs -o size=100% room /mnt; \
        dd if=/dev/zero of=/mnt/f bs=1M count=200 2> /dev/null || exit 1; \
        [ $(grep balloon_deflate /proc/vmstat | cut -d' ' -f2) -gt 0 ] && wc -c < /mnt/f";
    for transport in ["pci", "mmio"] {
        let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
        let vm = vm.memory("512M").flag("--balloon", "size=384M,deflate_on_oom=on");
        let outcome = vm.command(&["sh", "-c", script]).run();
        assert!(outcome.assert_status(0).output.contains("209715200"), "{transport}: {outcome}");
    }
}

#[test]
fn the_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    for transport in ["pci", "mmio"] {
        let script = "modprobe virtio_balloon; cd /sys/bus/virtio/drivers/virtio_balloon; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        dd if=/dev/zero of=/tmp/f$((i % 3)) bs=64k count=64 2> /dev/null & \
                        echo $d > unbind || exit 1; echo $d > bind || exit 2; wait; i=$((i+1)); done; echo done";
        let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
        let vm = vm.flag("--balloon", "size=32M,free_page_reporting=on,deflate_on_oom=on");
        let outcome = vm.command(&["sh", "-c", script]).run();
        assert!(outcome.assert_status(0).output.ends_with("done\n"), "{transport}: {outcome}");
    }
}
