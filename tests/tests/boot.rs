//! Boots of real kernels to real commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use tests::TestVm;

fn last_line(text: &str) -> &str {
    text.lines().map(str::trim).rfind(|l| !l.is_empty() && !l.starts_with('[')).unwrap_or("")
}

#[test]
fn a_command_runs_and_its_output_comes_back() {
    let outcome = TestVm::boot().command(&["uname", "-r"]).run();
    outcome.assert_status(0);
    assert!(last_line(&outcome.output).ends_with("cloud-amd64"), "{outcome}");
}

#[test]
fn a_commands_exit_status_is_the_vmms() {
    TestVm::boot().command(&["sh", "-c", "exit 7"]).run().assert_status(7);
}

#[test]
fn a_command_that_is_not_there_gives_127() {
    TestVm::boot().command(&["no-such-program"]).run().assert_status(127);
}

#[test]
fn four_processors_are_listed() {
    let outcome = TestVm::boot().cpus(4).command(&["grep", "-c", "^processor", "/proc/cpuinfo"]).run();
    outcome.assert_status(0);
    assert_eq!(last_line(&outcome.output), "4", "{outcome}");
}

#[test]
fn the_processors_are_cores_of_one_socket() {
    let script = "cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | sort -u | wc -l";
    let outcome = TestVm::boot().cpus(3).command(&["sh", "-c", script]).run();
    assert_eq!(last_line(&outcome.assert_status(0).output), "1", "{outcome}");
}

#[test]
fn a_generic_kernel_boots() {
    TestVm::of("6.1-generic").command(&["true"]).run().assert_status(0);
}

#[test]
fn a_newer_kernel_boots() {
    TestVm::of("6.12-cloud").command(&["true"]).run().assert_status(0);
}

#[test]
fn a_newer_kernel_boots_on_four_processors_over_mmio() {
    TestVm::of("6.12-cloud").cpus(4).flag("--transport", "mmio").command(&["true"]).run().assert_status(0);
}

#[test]
fn the_packed_kernel_boots_as_it_is() {
    let kernel = tests::assets().join("6.1-cloud/vmlinuz");
    TestVm::boot().kernel(kernel).command(&["true"]).run().assert_status(0);
}

#[test]
fn little_memory_is_enough() {
    TestVm::boot().memory("128M").command(&["true"]).run().assert_status(0);
}

#[test]
fn memory_goes_on_above_the_32_bit_hole() {
    let script = "awk '/MemTotal/ {print ($2 > 5500000)}' /proc/meminfo";
    let outcome = TestVm::boot().memory("6G").command(&["sh", "-c", script]).run();
    assert_eq!(last_line(&outcome.assert_status(0).output), "1", "{outcome}");
}

#[test]
fn shared_memory_boots() {
    TestVm::boot().memory("size=256M,shared=on").command(&["true"]).run().assert_status(0);
}

#[test]
fn the_clock_is_right_and_comes_from_kvm() {
    let script = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource; date +%s";
    let outcome = TestVm::boot().command(&["sh", "-c", script]).run();
    assert!(outcome.assert_status(0).output.contains("kvm-clock"), "{outcome}");
    let guest: i64 = last_line(&outcome.output).parse().expect("seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    assert!((guest - i64::try_from(now).expect("a time")).abs() < 120, "{outcome}");
}
