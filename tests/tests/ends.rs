//! Every way in which a machine ends, told apart by the exit status, with nothing left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use tests::TestVm;

#[test]
fn a_reset_is_told_from_a_power_off() {
    TestVm::boot().command(&["reboot", "-f"]).run().assert_status(82);
}

#[test]
fn the_keyboard_controllers_reset_is_one_too() {
    let cmdline = "console=ttyS0 quiet panic=-1 reboot=k";
    TestVm::boot().flag("--cmdline", cmdline).command(&["reboot", "-f"]).run().assert_status(82);
}

#[test]
fn a_kernel_without_a_root_panics_and_the_doctor_says_so() {
    let outcome = TestVm::boot().initrd(None).run();
    assert!(matches!(outcome.status.code(), Some(80 | 82)), "{outcome}");
}

#[test]
fn sigterm_ends_the_machine_at_any_moment() {
    for wait in [0, 30, 300, 1500] {
        let vm = TestVm::boot().flag("--console", "off").command(&["sleep", "1000"]);
        let child = vm.start();
        std::thread::sleep(Duration::from_millis(wait));
        let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(killed.success());
        tests::wait(child).assert_ended_by(15);
    }
}

#[test]
fn a_second_machine_on_the_same_socket_is_refused() {
    let vm = TestVm::boot().command(&["sleep", "1000"]);
    let path = vm.scratch().join("serial.sock");
    let vm = vm.serial(&format!("socket={}", path.display()));
    let first = vm.start();
    // The path is there from the bind on, and somebody's from the listen on.
    tests::until("the first machine listens", || UnixStream::connect(&path).is_ok());
    let second = tests::wait(vm.start());
    second.assert_status(64).assert_sentence(&["in use"]);
    assert!(path.exists(), "the second machine took the first one's socket away");
    let killed = Command::new("kill").arg(first.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    tests::wait(first).assert_status(143);
    assert!(!path.exists(), "the socket is left behind");
}
