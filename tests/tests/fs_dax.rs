//! Files of a shared directory that the guest sees by DAX: the host's page cache is its memory then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Server, Share, TestVm, status_field, until};

/// Eight pieces, fewer than the files have.
const WINDOW: &str = "--dax-window=16M";
const MIB: usize = 1 << 20;

/// A machine that mounts `share` with DAX at /mnt and then does what `script` says.
fn machine(share: &Share, transport: &str, script: &str) -> TestVm {
    let vm = TestVm::boot().flag("--transport", transport).program("bin/posix", tests::program("posix"));
    let vm = vm.flag("--fs", &format!("tag=src,socket={},dax=on", share.socket().display()));
    let mount = "modprobe virtiofs; mkdir -p /mnt; mount -t virtiofs -o dax=always src /mnt || exit 99\n";
    vm.command(&["sh", "-c", &format!("{mount}{script}")])
}

/// How many pieces of the file at `path` the process sees.
fn pieces(process: u32, path: &Path) -> usize {
    let inode = format!(" {} ", fs::metadata(path).expect("it is there").ino());
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the process is there");
    maps.lines().filter(|line| line.contains(&inode)).count()
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd")).expect("the process is there").count()
}

/// Bytes that differ from page to page.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at / 4096).to_le_bytes()[0]).collect()
}

/// As `sha256sum` has it, in the guest too.
fn sum(path: &Path) -> String {
    let said = Command::new("sha256sum").arg(path).output().expect("it runs").stdout;
    String::from_utf8(said).expect("text").split(' ').next().expect("a sum").to_owned()
}

/// A file in the shared directory, and its sum.
fn file(share: &Share, name: &str, len: usize) -> (PathBuf, String) {
    let path = share.dir().join(name);
    fs::write(&path, content(len)).expect("written");
    let sum = sum(&path);
    (path, sum)
}

#[test]
fn the_guest_reads_and_writes_the_hosts_page_cache_and_keeps_no_copy() {
    for (transport, cache) in [("pci", "--cache=auto"), ("mmio", "--cache=always")] {
        let share = Share::new(&[WINDOW, cache]);
        let ((big, its), (small, others)) = (file(&share, "big", 24 * MIB), file(&share, "small", 5000));
        let seconds = std::env::var("KIWI_FSX_SECONDS").map_or(5, |text| text.parse().expect("a number"));
        let script = "cached() { grep ^Cached: /proc/meminfo | tr -dc 0-9; }
            echo it begins; read word; before=$(cached); cmp /mnt/big /mnt/big; more=$(($(cached) - before))
            [ $more -lt 4096 ] && echo no copy of $more KiB
            sha256sum < /mnt/big; sha256sum < /mnt/small
            yes written | head -c 3000000 | dd of=/mnt/big bs=4k seek=1000 conv=notrunc 2> /dev/null || exit 1
            posix random /mnt SECONDS 1 || exit 2
            exec 3< /mnt/small; read byte <&3; echo it is there; read word
            exec 3<&-; umount /mnt; echo it is gone; read word";
        let script = script.replace("SECONDS", &seconds.to_string());
        let mut vm = machine(&share, transport, &script).within(300 + 2 * seconds).launch();
        vm.wait_for("it begins");
        let (id, open) = (vm.id(), descriptors(vm.id()));
        vm.tell("go");
        vm.wait_for("it is there");
        let said = vm.said();
        assert!(said.contains("no copy of "), "{transport}: {said}");
        assert!(said.contains(&its) && said.contains(&others), "{transport}: {said}");
        assert_eq!(pieces(id, &small), 1, "{transport}: the guest sees the file itself");
        assert_eq!(descriptors(id), open, "{transport}: a mapping keeps no descriptor");
        vm.tell("go");
        vm.wait_for("it is gone");
        assert_eq!((pieces(id, &small), pieces(id, &big)), (0, 0), "{transport}: and gives it back");
        assert_eq!(descriptors(id), open, "{transport}: and its end takes none");
        vm.end();
        let mut expected = content(24 * MIB);
        let new = b"written\n".iter().cycle().take(3_000_000);
        expected[4096 * 1000..].iter_mut().zip(new).for_each(|(to, from)| *to = *from);
        assert!(fs::read(&big).expect("readable") == expected, "{transport}: the host sees what was written");
    }
}

#[test]
fn posixs_rules_hold_with_dax() {
    let share = Share::on_disk(64, Server::Ours, &[WINDOW, "--cache=auto", "--xattr", "--posix-acl"]);
    let outcome = machine(&share, "pci", "posix check /mnt acls attributes zeroes modesty").run();
    outcome.assert_status(0);
    assert!(outcome.output.contains("all is as it should be"), "{outcome}");
}

#[test]
fn a_file_that_becomes_shorter_on_the_host_holds_up_who_reads_it_until_it_is_long_again() {
    // What the guest knows of a file is good for a day.
    let share = Share::new(&[WINDOW, "--cache=always"]);
    let (big, _) = file(&share, "big", 4 * MIB);
    let mut vm = machine(&share, "pci", "while cat /mnt/big > /dev/null; do echo read; done").launch();
    vm.wait_for("read");
    let writable = File::options().write(true).open(&big).expect("opened");
    writable.set_len(5).expect("shorter");
    // Time to get there. If it is too little, less is shown.
    let get_there = || std::thread::sleep(Duration::from_secs(2));
    get_there();
    writable.set_len(4 * MIB as u64).expect("longer");
    let before = vm.said().matches("read").count();
    until("the guest reads on", || vm.said().matches("read").count() > before + 1);
    writable.set_len(5).expect("shorter");
    get_there();
    // And the machine can be ended meanwhile.
    vm.end();
}

#[test]
fn a_guest_that_writes_where_no_file_is_ends_the_machine_with_a_sentence() {
    let share = Share::new(&[WINDOW]);
    // Who is root there may look at a device's memory by its address.
    let script = "r=$(grep -l 0x105a /sys/bus/pci/devices/*/device); at=$(sed -n 3p ${r%device}resource | cut -d' ' -f1)
        echo looked at $(devmem $at 32); devmem $at 32 1; echo it goes on";
    let vm = machine(&share, "pci", script).flag("--cmdline", "console=ttyS0 quiet panic=-1 iomem=relaxed");
    let outcome = vm.run();
    outcome.assert_status(69).assert_logged(&["it wrote to a window for DAX where no file is"]);
    assert!(outcome.output.contains("looked at 0x00000000"), "{outcome}");
}

#[test]
fn what_is_mapped_can_be_read_when_the_daemon_is_dead_and_the_machine_goes_on() {
    for transport in ["pci", "mmio"] {
        let share = Share::new(&[WINDOW]);
        let (_, sum) = file(&share, "big", 4 * MIB);
        let script = "exec 3< /mnt/big 4< /mnt/big; sha256sum <&3; echo it is there; read word
            sha256sum <&4; ls /mnt || echo nobody there";
        let mut vm = machine(&share, transport, script).launch();
        vm.wait_for("it is there");
        kill(Pid::from_raw(i32::try_from(share.inside()).expect("small")), Signal::SIGKILL)
            .expect("it is there");
        until("its other process has noticed", || {
            status_field(share.id(), "State").is_none_or(|state| state.starts_with('Z'))
        });
        vm.tell("go");
        let outcome = vm.wait();
        outcome.assert_status(0);
        let sums = outcome.output.matches(&sum).count();
        assert!(sums == 2 && outcome.output.contains("nobody there"), "{transport}: {outcome}");
    }
}

#[test]
fn the_driver_is_unbound_and_bound_again_under_load_with_dax() {
    for transport in ["pci", "mmio"] {
        let share = Share::new(&[WINDOW]);
        let (_, sum) = file(&share, "file", MIB);
        let script = "umount /mnt; cd /sys/bus/virtio/drivers/virtiofs; d=$(ls -d virtio*); i=0
            while [ $i -lt 25 ]; do
                mount -t virtiofs -o dax=always src /mnt || exit 3
                (while cat /mnt/file; do :; done > /dev/null) 2> /dev/null &
                usleep 5000; echo $d > unbind || exit 1; wait; umount -l /mnt; echo $d > bind || exit 2
                i=$((i+1))
            done
            mount -t virtiofs -o dax=always src /mnt && sha256sum /mnt/file";
        let outcome = machine(&share, transport, script).run();
        outcome.assert_status(0);
        assert!(outcome.output.contains(&sum), "{transport}: {outcome}");
    }
}

#[test]
fn what_cannot_be_is_one_sentence() {
    let share = Share::new(&[]);
    let refused = machine(&share, "pci", "true").run();
    refused.assert_status(69).assert_sentence(&["\"src\" has no window for DAX", "--dax-window=SIZE"]);
    let windows: Vec<_> = (0..3).map(|_| Share::new(&["--dax-window=32G"])).collect();
    let give = |vm: TestVm, (n, share): (usize, &Share)| {
        vm.flag("--fs", &format!("tag=t{n},socket={},dax=on", share.socket().display()))
    };
    let refused = windows.iter().enumerate().fold(TestVm::boot(), give).run();
    refused
        .assert_status(64)
        .assert_sentence(&["do not fit, each at a multiple of its length, into the 64 GiB"]);
}
