//! Directories of the host in the guest: our daemon, our device, a stock kernel's driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;
use std::os::unix::fs::MetadataExt;

use tests::{Server, Share, until, wait};

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

#[test]
fn the_daemon_ends_with_the_machine_and_the_host_sees_what_was_written() {
    both(|transport| {
        let share = Share::new(&[]);
        let outcome = share.vm(transport).command(&["sh", "-c", "echo from the guest > /mnt/file"]).run();
        outcome.assert_status(0);
        assert_eq!(fs::read_to_string(share.dir().join("file")).expect("a file"), "from the guest\n");
        assert_eq!(share.end().assert_status(0).errors, "");
    });
}

#[test]
fn the_host_changes_the_directory_under_the_guest() {
    for server in Server::ALL {
        let share = Share::by(server, &["--cache=never"]);
        let script = "touch /mnt/ready 2> /dev/null; while ! [ -e /mnt/new ]; do sleep 0.1; done; cat /mnt/new; touch /mnt/seen; \
                      while [ -e /mnt/new ]; do sleep 0.1; done; echo gone";
        let vm = share.vm("pci").command(&["sh", "-c", script]);
        let machine = vm.start();
        until("the guest is ready", || share.dir().join("ready").exists());
        fs::write(share.place().join("part"), "by the host\n").expect("a file");
        fs::rename(share.place().join("part"), share.dir().join("new")).expect("moved");
        until("the guest has seen it", || share.dir().join("seen").exists());
        fs::remove_file(share.dir().join("new")).expect("removed");
        let outcome = wait(machine);
        assert_eq!(outcome.assert_status(0).output, "by the host\ngone\n", "{server:?}: {outcome}");
    }
}

fn status_of(process: u32, name: &str) -> String {
    tests::status_field(process, name).unwrap_or_else(|| panic!("no {name} of process {process}"))
}

#[test]
fn the_daemon_is_in_its_sandbox_before_anybody_connects() {
    let share = Share::new(&["--xattr"]);
    let inside = share.inside();
    until("its threads are there", || status_of(inside, "Threads").parse::<u32>().is_ok_and(|n| n > 9));
    for space in ["user", "mnt", "pid", "net", "ipc"] {
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{space}")).expect("a namespace");
        assert_ne!(of(&inside.to_string()), of("self"), "{space}");
    }
    let (root, dir) = (fs::metadata(format!("/proc/{inside}/root")), fs::metadata(share.dir()));
    let (root, dir) = (root.expect("a root"), dir.expect("a folder"));
    assert_eq!((root.dev(), root.ino()), (dir.dev(), dir.ino()), "its root is the directory");
    let mounts = fs::read_to_string(format!("/proc/{inside}/mountinfo")).expect("its mounts");
    assert_eq!(mounts.lines().count(), 1, "nothing else is mounted: {mounts}");
    // chown, dac_override, fowner, fsetid, setgid, setuid, setfcap.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status_of(inside, set), "00000000800000db", "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(status_of(inside, set), "0000000000000000", "{set}");
    }
    assert_eq!(status_of(inside, "NoNewPrivs"), "1");
    for task in fs::read_dir(format!("/proc/{inside}/task")).expect("threads") {
        let task = task.expect("a thread").file_name().to_string_lossy().parse().expect("a number");
        assert_eq!(status_of(task, "Seccomp"), "2", "a filter on every thread");
    }
    // That process confines itself when it has nothing to do but to wait, while the daemon goes on.
    until("the process that waits has its filter", || status_of(share.id(), "Seccomp") == "2");
    let resident: u32 = status_of(inside, "VmRSS").trim_end_matches(" kB").parse().expect("a number");
    assert!(resident <= 8 << 10, "{resident} KiB resident");
}
