//! Shared directories when something breaks: an error in the guest and a line on the host, and the machine goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Server, Share, TestVm, until, wait};

/// The device is the same whoever serves it, so one transport does for the other daemon.
const EACH: [(&str, Server); 3] = [("pci", Server::Ours), ("mmio", Server::Ours), ("pci", Server::Theirs)];

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

#[test]
fn a_daemon_that_is_killed_leaves_errors_to_the_guest_and_one_line() {
    for (transport, server) in EACH {
        let share = Share::by(server, &["--cache=never"]);
        let script = "touch /mnt/ready 2> /dev/null; dd if=/dev/zero of=/mnt/big bs=64k count=100000 2>/dev/null; echo dd $?; \
                      ls /mnt 2>/dev/null; echo ls $?; echo x > /mnt/x; echo alive";
        let machine = share.vm(transport).command(&["sh", "-c", script]);
        let running = machine.start();
        until("the guest writes", || {
            fs::metadata(share.dir().join("big")).is_ok_and(|meta| meta.len() > 1 << 20)
        });
        share.signal(Signal::SIGKILL);
        let outcome = wait(running);
        outcome.assert_status(0);
        assert!(
            outcome.output.starts_with("dd 1\nls 1\n") && outcome.output.ends_with("alive\n"),
            "{server:?} over {transport}: {outcome}"
        );
        let lines = outcome.errors.lines().filter(|line| line.contains("is lost")).count();
        assert_eq!(lines, 1, "{server:?} over {transport}: {outcome}");
    }
}

#[test]
fn a_daemon_started_anew_is_found_by_a_driver_that_starts_anew() {
    for (transport, server) in EACH {
        let mut share = Share::by(server, &["--cache=never"]);
        let script = "touch /mnt/ready 2> /dev/null; while ls /mnt >/dev/null 2>&1; do sleep 0.1; done; umount /mnt; \
                      cd /sys/bus/virtio/drivers/virtiofs; d=$(ls -d virtio*); \
                      until mount -t virtiofs src /mnt && cat /mnt/file; do \
                      umount /mnt; echo $d > unbind; sleep 0.2; echo $d > bind; done 2>/dev/null";
        let machine = share.vm(transport).command(&["sh", "-c", script]);
        let running = machine.start();
        until("the guest is ready", || share.dir().join("ready").exists());
        fs::write(share.dir().join("file"), "back again\n").expect("a file");
        share.start_anew();
        let outcome = wait(running);
        assert_eq!(outcome.assert_status(0).output, "back again\n", "{server:?} over {transport}: {outcome}");
    }
}

#[test]
fn the_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    both(|transport| {
        let share = Share::new(&["--cache=never"]);
        fs::write(share.dir().join("file"), vec![7; 1 << 20]).expect("a file");
        // What is mounted would not come back, so each round has a mount and a load of its own.
        let script = "umount /mnt; cd /sys/bus/virtio/drivers/virtiofs; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        mount -t virtiofs src /mnt || exit 3; \
                        (while cat /mnt/file; do :; done > /dev/null) 2> /dev/null & \
                        (while ls -l /mnt; do :; done > /dev/null) 2> /dev/null & \
                        usleep 5000; echo $d > unbind || exit 1; wait; umount -l /mnt; echo $d > bind || exit 2; \
                        i=$((i+1)); done; \
                      mount -t virtiofs src /mnt && wc -c < /mnt/file";
        let outcome = share.vm(transport).command(&["sh", "-c", script]).run();
        assert_eq!(outcome.assert_status(0).output, "1048576\n", "{transport}: {outcome}");
    });
}

#[test]
fn a_daemon_that_hangs_does_not_keep_the_machine_from_ending() {
    for server in Server::ALL {
        let share = Share::by(server, &[]);
        let machine = share.vm("pci").command(&[
            "sh",
            "-c",
            "touch /mnt/ready 2> /dev/null; while :; do ls /mnt; done",
        ]);
        let running = machine.start();
        until("the guest is ready", || share.dir().join("ready").exists());
        let inside = Pid::from_raw(i32::try_from(share.inside()).expect("a process id"));
        kill(inside, Signal::SIGSTOP).expect("it is there");
        kill(Pid::from_raw(i32::try_from(running.id()).expect("a process id")), Signal::SIGTERM)
            .expect("it is there");
        let outcome = wait(running);
        outcome.assert_ended_by(15);
        kill(inside, Signal::SIGKILL).expect("it is there");
    }
}

#[test]
fn a_daemon_that_is_told_to_end_takes_its_socket_with_it() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let share = Share::new(&[]);
        let (socket, inside) = (share.socket(), share.inside());
        share.signal(signal);
        until("the socket is gone", || !socket.exists());
        share.end().assert_status(128 + signal as i32);
        assert!(!std::path::Path::new(&format!("/proc/{inside}")).exists(), "{signal} left the daemon");
    }
}

#[test]
fn without_a_daemon_there_is_no_machine_and_one_sentence() {
    let scratch = tests::scratch();
    let share = format!("tag=src,socket={}", scratch.path().join("none.sock").display());
    let outcome = TestVm::boot().serial("null").flag("--fs", &share).command(&["true"]).run();
    outcome.assert_status(69).assert_sentence(&["share \"src\"", "none.sock"]);
    let outcome = TestVm::boot().serial("null").flag("--fs", "tag=src,fd=77").command(&["true"]).run();
    outcome.assert_status(64).assert_sentence(&["77"]);
}

#[test]
fn a_full_disk_is_an_error_in_the_guest_and_a_line_on_the_host() {
    for server in Server::ALL {
        let share = Share::on_tmpfs(1, server, &[]);
        let script = "dd if=/dev/zero of=/mnt/big bs=64k count=64 2>&1 | grep -c 'No space'; rm /mnt/big; \
                      echo ok > /mnt/small; cat /mnt/small";
        let outcome = share.vm("pci").command(&["sh", "-c", script]).run();
        assert_eq!(outcome.assert_status(0).output, "1\nok\n", "{server:?}: {outcome}");
        let said = share.end().assert_status(0).errors.clone();
        assert!(server == Server::Theirs || said.matches("disk is full").count() == 1, "{said}");
    }
}

#[test]
fn a_directory_that_is_removed_is_an_error_in_the_guest_and_a_line_on_the_host() {
    for server in Server::ALL {
        let share = Share::by(server, &["--cache=never"]);
        let script = "mkdir /mnt/below; echo x > /mnt/below/file; exec 3</mnt/below/file; touch /mnt/ready 2> /dev/null; \
                      while ls /mnt/below/file >/dev/null 2>&1; do sleep 0.1; done; \
                      cat <&3; cat /mnt/below/file 2>/dev/null || echo gone; \
                      touch /mnt/new 2>/dev/null || echo refused; mkdir /mnt/d 2>/dev/null || echo refused; echo alive";
        let machine = share.vm("pci").command(&["sh", "-c", script]);
        let running = machine.start();
        until("the guest is ready", || share.dir().join("ready").exists());
        // In one step for the guest, which must not see half of it gone.
        fs::rename(share.dir().join("below"), share.place().join("below")).expect("moved");
        fs::remove_dir_all(share.dir()).expect("removed");
        let outcome = wait(running);
        let expected = "x\ngone\nrefused\nrefused\nalive\n";
        assert_eq!(outcome.assert_status(0).output, expected, "{server:?}: {outcome}");
        let said = share.end().assert_status(0).errors.clone();
        assert!(server == Server::Theirs || said.matches("was removed").count() == 1, "{said}");
    }
}
