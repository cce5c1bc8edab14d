//! Disks: real file systems by real drivers over both transports, what survives, and what goes wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Outcome, TestVm, threads, until, wait};

const MIB: u64 = 1 << 20;

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

/// A guest that runs `script` once it has the driver of disks, and speaks to `console`.
fn guest_on(console: &str, transport: &str, script: &str) -> TestVm {
    TestVm::boot().serial("null").flag("--console", console).flag("--transport", transport).command(&[
        "sh",
        "-c",
        &format!("modprobe virtio_blk || exit 99\n{script}"),
    ])
}

fn guest(transport: &str, script: &str) -> TestVm {
    guest_on("stdio", transport, script)
}

/// The same, and the file that has what it says.
fn logged(transport: &str, script: &str) -> (TestVm, PathBuf, tempfile::TempDir) {
    let folder = tests::scratch();
    let log = folder.path().join("console.txt");
    (guest_on(&format!("file={}", log.display()), transport, script), log, folder)
}

fn image(vm: &TestVm, bytes: u64) -> PathBuf {
    let path = vm.scratch().join("disk.img");
    File::create(&path).expect("a file").set_len(bytes).expect("its size");
    path
}

/// Adds `path` with more words as the next disk.
fn disk(vm: TestVm, path: &Path, more: &str) -> TestVm {
    vm.flag("--disk", &format!("path={}{more}", path.display()))
}

/// A command of the host's that must succeed; its output.
fn host(words: &[&str]) -> String {
    let out = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let out = out.unwrap_or_else(|e| panic!("{words:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{words:?}: {text}");
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// Undoes something of the host's when dropped.
struct Undo(Vec<String>);

impl Undo {
    fn with(words: &[&str]) -> Self {
        Self(words.iter().map(|w| (*w).to_owned()).collect())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(&self.0[0]).args(&self.0[1..]).status();
    }
}

/// A block device over `file`.
fn block_device(file: &Path) -> (PathBuf, Undo) {
    let device = host(&["losetup", "--find", "--show", &file.display().to_string()]);
    let undo = Undo::with(&["losetup", "--detach", &device]);
    (device.into(), undo)
}

fn kill(id: u32, signal: &str) {
    host(&["kill", signal, &id.to_string()]);
}

const TREE: &str = "mke2fs /dev/vda > /dev/null 2>&1 && mkdir -p /d && mount -t ext2 /dev/vda /d && cd /d || exit 1
i=0; while [ $i -lt 40 ]; do mkdir -p $((i % 7))/$i; head -c $((i * i * 211)) /dev/urandom > $((i % 7))/$i/f; i=$((i+1)); done
cp -r /lib/modules . && sync && find . -type f | sort | xargs sha256sum
cd / && umount /d";

/// What the guest wrote is what is in the image.
fn holds_the_tree(image: &Path, scratch: &Path, outcome: &Outcome) {
    let image = image.display().to_string();
    host(&["e2fsck", "-fn", &image]);
    let out = scratch.join("tree");
    fs::create_dir(&out).expect("a folder");
    host(&["debugfs", "-R", &format!("rdump / {}", out.display()), &image]);
    let sums = format!("cd '{}' && find . -type f | LC_ALL=C sort | xargs sha256sum", out.display());
    let (ours, theirs) = (host(&["sh", "-c", &sums]), outcome.output.replace('\r', ""));
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let theirs = sorted(theirs.trim());
    assert!(theirs.len() > 50, "{outcome}");
    assert_eq!(sorted(&ours), theirs);
}

#[test]
fn a_file_system_made_and_filled_by_the_guest_is_sound_on_the_host() {
    both(|transport| {
        let vm = guest(transport, TREE);
        let image = image(&vm, 64 * MIB);
        let scratch = tests::scratch();
        let path = scratch.path().join("disk.img");
        fs::rename(&image, &path).expect("moved");
        let outcome = disk(vm, &path, "").run();
        outcome.assert_status(0);
        holds_the_tree(&path, scratch.path(), &outcome);
    });
}

#[test]
fn a_block_device_is_a_disk_too_through_the_page_cache_and_around_it() {
    for (transport, more) in [("pci", ""), ("mmio", ",direct=on"), ("pci", ",direct=on,queues=2")] {
        let scratch = tests::scratch();
        let path = scratch.path().join("disk.img");
        File::create(&path).expect("a file").set_len(64 * MIB).expect("its size");
        let (device, undo) = block_device(&path);
        let outcome = disk(guest(transport, TREE).cpus(2), &device, more).run();
        outcome.assert_status(0);
        drop(undo);
        holds_the_tree(&path, scratch.path(), &outcome);
    }
}

#[test]
fn the_guest_reads_what_the_disk_is() {
    both(|transport| {
        let script = "cd /sys/block/vda; cat serial; echo; cat size ro; ls mq | wc -l; cat queue/write_cache \
                      queue/discard_max_bytes; cat /sys/block/vdb/ro; echo x > /dev/vdb || echo refused";
        let vm = guest(transport, script).cpus(2);
        let first = image(&vm, 8 * MIB);
        let second = vm.scratch().join("second.img");
        fs::write(&second, vec![0; 4096]).expect("a file");
        let vm = disk(disk(vm, &first, ",serial=kiwi-1,queues=2"), &second, ",readonly=on");
        let outcome = vm.run();
        outcome.assert_status(0);
        let lines: Vec<_> = outcome.output.lines().map(str::trim).collect();
        assert_eq!(lines[..5], ["kiwi-1", "16384", "0", "2", "write back"], "{transport}: {outcome}");
        assert_eq!(lines[6], "1", "{outcome}");
        assert!(lines[5].parse::<u64>().unwrap() > 0 && outcome.output.contains("refused"), "{outcome}");
    });
}

#[test]
fn an_inherited_descriptor_is_a_disk() {
    let vm = guest("pci", "head -c 5 /dev/vda").flag("--disk", "fd=5");
    let path = image(&vm, MIB);
    File::options().write(true).open(&path).unwrap().write_all_at(b"hello", 0).unwrap();
    let words = vm.words();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 5<>\"$0\"; exec \"$@\""])
        .arg(&path)
        .arg(words.get_program())
        .args(words.get_args());
    let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(wait(child).assert_status(0).output, "hello");
}

#[test]
fn discarded_space_goes_back_to_the_host() {
    use std::os::unix::fs::MetadataExt;
    both(|transport| {
        let script = "dd if=/dev/urandom of=/dev/vda bs=1M count=24 conv=fsync 2> /dev/null && blkdiscard /dev/vda \
                      && sync; dd if=/dev/vda bs=1M count=24 2> /dev/null | tr -d '\\0' | wc -c";
        let vm = guest(transport, script);
        let scratch = tests::scratch();
        let path = scratch.path().join("disk.img");
        File::create(&path).unwrap().set_len(24 * MIB).unwrap();
        let outcome = disk(vm, &path, "").run();
        assert_eq!(outcome.assert_status(0).output.trim(), "0", "{outcome}");
        let held = fs::metadata(&path).unwrap().blocks() * 512;
        assert!(held < MIB, "{transport}: the image holds {held} bytes");
    });
}

/// Processes that write, and blocks of each that they write in an order without a pattern.
const WRITERS: u64 = 3;
const BLOCKS: u64 = 16;

/// Where a writer writes its generation; the guest's shell computes the same.
fn slot(writer: u64, generation: u64) -> u64 {
    (generation * generation * 5 + generation * 3 + (generation / 7) * 11 + writer) % BLOCKS
}

/// Each writer writes its number and a generation to its next block, has it flushed, and says so.
fn writers() -> String {
    format!(
        "w() {{ g=1; while :; do s=$(((g * g * 5 + g * 3 + (g / 7) * 11 + $1) % {BLOCKS})); \
           printf '%4096s' \"$1 $g\" | dd of=/dev/vda bs=4096 seek=$(($1 * {BLOCKS} + s)) \
             conv=notrunc,fsync 2> /dev/null || exit 1; \
           echo \"done $1 $g\"; g=$((g+1)); done; }}
         i=0; while [ $i -lt {WRITERS} ]; do w $i & i=$((i+1)); done; wait"
    )
}

/// The last generation that each writer said to be on the disk.
fn acknowledged(log: &Path) -> BTreeMap<u64, u64> {
    let text = fs::read_to_string(log).expect("a log");
    // The last line may have been cut.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut last = BTreeMap::new();
    for line in whole.lines() {
        if let Some((writer, generation)) = line.trim().strip_prefix("done ").and_then(|l| l.split_once(' '))
            && let (Ok(writer), Ok(generation)) = (writer.parse(), generation.parse::<u64>())
        {
            let seen = last.entry(writer).or_insert(0);
            assert_eq!(generation, *seen + 1, "the guest's log has a gap");
            *seen = generation;
        }
    }
    last
}

fn block_of(image: &File, writer: u64, slot: u64) -> String {
    let mut raw = vec![0; 4096];
    image.read_exact_at(&mut raw, (writer * BLOCKS + slot) * 4096).expect("read");
    String::from_utf8_lossy(&raw).into_owned()
}

/// The model: a block holds the last generation that was said to be on the disk, or one that its writer had begun with
/// since; and always the whole of it, for a page is written at once.
fn holds_what_was_acknowledged(image: &Path, log: &Path) {
    /// Words that were said may not have come to the log when the machine was killed. However many are allowed for,
    /// what a later one took the place of is not among them.
    const UNHEARD: u64 = 1000;
    let image = File::open(image).expect("an image");
    let last = acknowledged(log);
    assert_eq!(last.len() as u64, WRITERS, "every writer has written: {last:?}");
    for (writer, last) in last {
        for place in 0..BLOCKS {
            let here = |generation: &u64| slot(writer, *generation) == place;
            let found = block_of(&image, writer, place);
            let text = |generation: u64| format!("{:>4096}", format!("{writer} {generation}"));
            let flushed = (1..=last).rev().find(here);
            let nothing_yet = flushed.is_none() && found.bytes().all(|byte| byte == 0);
            let mut good = flushed.into_iter().chain((last + 1..last + UNHEARD).filter(here));
            assert!(
                nothing_yet || good.any(|generation| found == text(generation)),
                "writer {writer}, block {place}, {flushed:?} was flushed there, the last one was {last}: {}",
                found.trim()
            );
        }
    }
}

#[test]
fn what_was_flushed_survives_a_kill_at_any_moment() {
    for transport in ["pci", "mmio", "pci", "mmio"] {
        let (vm, log, _folder) = logged(transport, &writers());
        let path = image(&vm, 4 * MIB);
        let vm = disk(vm, &path, "");
        let child = vm.start();
        until("every writer has written for a while", || {
            log.exists()
                && acknowledged(&log).len() as u64 == WRITERS
                && acknowledged(&log).values().all(|g| *g > 2 * BLOCKS)
        });
        let more = RandomState::new().hash_one("a moment") % 2000;
        println!("over {transport} killed {more} ms later");
        std::thread::sleep(Duration::from_millis(more));
        kill(child.id(), "-KILL");
        wait(child);
        holds_what_was_acknowledged(&path, &log);
    }
}

#[test]
fn a_disk_is_one_machines_alone_until_that_is_killed() {
    let (vm, log, _folder) = logged("pci", "echo up; sleep 1000");
    let path = image(&vm, MIB);
    let vm = disk(vm, &path, "");
    let first = vm.start();
    until("the first machine is up", || fs::read_to_string(&log).is_ok_and(|text| text.contains("up")));
    let disks: Vec<_> = threads(first.id()).into_iter().filter(|t| t.name.starts_with("disk-")).collect();
    assert!(disks.len() == 1 && disks[0].seccomp() == 2, "a confined thread for the one queue: {disks:?}");
    let second = wait(vm.start());
    second.assert_status(69).assert_sentence(&["disk.img cannot be used: another program uses it"]);
    kill(first.id(), "-KILL");
    wait(first);
    let third = vm.start();
    until("the third machine is up", || {
        fs::read_to_string(&log).is_ok_and(|text| text.matches("up").count() == 2)
    });
    kill(third.id(), "-TERM");
    wait(third).assert_status(143);
}

#[test]
fn what_is_no_disk_is_refused_in_one_sentence() {
    let refused = |words: &str| wait(TestVm::boot().flag("--disk", words).start());
    refused("/nonexistent").assert_status(65).assert_sentence(&["there is no disk at /nonexistent"]);
    refused("/dev/null").assert_status(65).assert_sentence(&["/dev/null is a character device"]);
    refused("fd=77").assert_status(64).assert_sentence(&["there is no descriptor 77"]);
    refused("/dev/null,fd=5").assert_status(64).assert_sentence(&["path=PATH or --disk fd=N"]);
}

#[test]
fn a_full_host_is_an_error_in_the_guest_and_a_line_in_the_log() {
    both(|transport| {
        let script = "dd if=/dev/zero of=/dev/vda bs=1M count=32 conv=fsync && exit 1; \
                      head -c 1000000 /dev/vda | wc -c; echo it goes on";
        let vm = guest(transport, script);
        let small = tests::scratch();
        let folder = small.path().display().to_string();
        host(&["mount", "-t", "tmpfs", "-o", "size=8M", "small", &folder]);
        let _undo = Undo::with(&["umount", &folder]);
        let path = small.path().join("disk.img");
        File::create(&path).unwrap().set_len(64 * MIB).unwrap();
        let outcome = disk(vm, &path, "").run();
        outcome.assert_status(0);
        assert!(outcome.output.contains("1000000") && outcome.output.contains("it goes on"), "{outcome}");
        outcome.assert_logged(&["the host did not do what a disk's driver asked for: No space left"]);
        assert!(outcome.errors.lines().count() < 40, "{outcome}");
    });
}

#[test]
fn a_device_that_fails_is_an_error_in_the_guest_and_no_hang() {
    both(|transport| {
        let script = "dd if=/dev/vda of=/dev/null bs=4096 count=200 && \
                      ! dd if=/dev/vda of=/dev/null bs=4096 skip=300 count=1 && \
                      ! dd if=/dev/zero of=/dev/vda bs=4096 seek=300 count=1 conv=fsync && \
                      dd if=/dev/vda of=/dev/null bs=4096 count=100 && echo it goes on";
        let vm = guest(transport, script);
        let path = image(&vm, 4 * MIB);
        let (device, _detach) = block_device(&path);
        // The first megabyte works, the rest does not.
        let table = format!("0 2048 linear {} 0\n2048 6144 error", device.display());
        let name = format!("kiwi-{}-{transport}", std::process::id());
        let create =
            format!("printf '{table}\n' | dmsetup create --noudevsync {name} && dmsetup mknodes {name}");
        host(&["sh", "-c", &create]);
        let _remove = Undo::with(&["dmsetup", "remove", "--noudevsync", &name]);
        let outcome = disk(vm, &Path::new("/dev/mapper").join(&name), "").run();
        outcome.assert_status(0);
        assert!(outcome.output.contains("it goes on"), "{outcome}");
        outcome.assert_logged(&["the host did not do what a disk's driver asked for: Input/output error"]);
    });
}

#[test]
fn a_file_cut_short_under_the_guest_is_an_error_and_no_hang() {
    both(|transport| {
        let script = "echo ready; i=0; \
                      while dd if=/dev/vda of=/dev/null bs=4096 skip=900 count=1 2> /dev/null; do \
                        echo 3 > /proc/sys/vm/drop_caches; done; echo an error; head -c 4096 /dev/vda | wc -c";
        let (vm, log, _folder) = logged(transport, script);
        let path = image(&vm, 4 * MIB);
        let vm = disk(vm, &path, "");
        let child = vm.start();
        until("the guest reads", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ready")));
        File::options().write(true).open(&path).unwrap().set_len(MIB).unwrap();
        let outcome = wait(child);
        outcome.assert_status(0).assert_logged(&["the image has become shorter"]);
        let said = fs::read_to_string(&log).unwrap();
        assert!(said.contains("an error") && said.contains("4096"), "{transport}: {said}");
    });
}

#[test]
fn the_driver_is_unbound_and_bound_again_a_hundred_times_under_load() {
    both(|transport| {
        let script = "cd /sys/bus/virtio/drivers/virtio_blk; d=$(ls -d virtio*); i=0; \
                      while [ $i -lt 100 ]; do \
                        dd if=/dev/vda of=/dev/null bs=64k 2> /dev/null & \
                        dd if=/dev/urandom of=/dev/vda bs=64k count=16 2> /dev/null & \
                        echo $d > unbind || exit 1; echo $d > bind || exit 2; wait; i=$((i+1)); done; \
                      head -c 100000 /dev/vda | wc -c";
        let vm = guest(transport, script);
        let path = image(&vm, 16 * MIB);
        let outcome = disk(vm, &path, "").run();
        assert!(outcome.assert_status(0).output.ends_with("100000\n"), "{transport}: {outcome}");
    });
}

#[test]
fn limits_are_kept() {
    let script = "t() { cut -d' ' -f1 /proc/uptime | tr -d .; }; a=$(t); \
                  dd if=/dev/vda of=/dev/null bs=64k count=48 2> /dev/null; b=$(t); echo $((b - a))";
    let vm = guest("pci", script);
    let path = image(&vm, 4 * MIB);
    let outcome = disk(vm, &path, ",bw=1M").run();
    let hundredths: u64 = outcome.assert_status(0).output.trim().parse().expect("a number");
    // Three megabytes, of which a tenth of one may come at once and the last request need not be paid for.
    assert!((240..2800).contains(&hundredths), "{outcome}");
}

/// Returns to this process during the whole run.
fn returns(requests: u32) -> u64 {
    let script = format!(
        "echo 0 > /sys/block/vda/queue/read_ahead_kb; \
         dd if=/dev/vda of=/dev/null bs=4096 count={requests} 2> /dev/null; set -- $(cat /sys/block/vda/stat); echo $1"
    );
    let vm = guest("pci", &script);
    let path = image(&vm, 32 * MIB);
    let outcome = disk(vm, &path, "").flag("--report", "json").run();
    let done: u32 = outcome.assert_status(0).output.trim().parse().expect("a count");
    assert!(done >= requests, "{outcome}");
    let report: serde_json::Value = serde_json::from_str(&outcome.errors).expect("a report");
    let spans = report["spans"].as_array().expect("spans");
    spans.iter().map(|span| span["exits"]["to_userspace"].as_u64().expect("a count")).sum()
}

#[test]
fn no_request_over_pci_comes_back_to_userspace() {
    let (few, many) = (returns(100), returns(6100));
    assert!(many < few + 600, "{few} returns for 100 requests, {many} for 6100");
}
