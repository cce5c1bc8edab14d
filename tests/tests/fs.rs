//! Directories of the host in the guest: our daemon, our device, a stock kernel's driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{Outcome, TestVm, until, wait};

/// A shared directory and the daemon that serves it.
struct Share {
    place: tempfile::TempDir,
    daemon: Child,
}

impl Share {
    fn new(words: &[&str]) -> Self {
        let place = tests::scratch();
        let dir = place.path().join("dir");
        fs::create_dir(&dir).expect("a folder");
        Self::of(place, words)
    }

    /// Serves `dir` in `place`.
    fn of(place: tempfile::TempDir, words: &[&str]) -> Self {
        let mut daemon = Command::new(tests::virtiofsd());
        daemon.arg(format!("--socket-path={}", place.path().join("fs.sock").display()));
        daemon.arg(format!("--shared-dir={}", place.path().join("dir").display())).args(words);
        daemon.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let daemon = daemon.spawn().expect("the daemon starts");
        let share = Self { place, daemon };
        until("the daemon listens", || share.socket().exists());
        share
    }

    fn socket(&self) -> PathBuf {
        self.place.path().join("fs.sock")
    }

    fn dir(&self) -> PathBuf {
        self.place.path().join("dir")
    }

    /// The daemon itself: process 1 of its namespace, a child of the process that waits for it.
    fn inside(&self) -> u32 {
        let id = self.daemon.id();
        let list = format!("/proc/{id}/task/{id}/children");
        let find = || {
            let children = fs::read_to_string(&list).ok()?;
            let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
            children.find(|child| field(*child, "NSpid").is_some_and(|pids| pids.ends_with("\t1")))
        };
        until("the daemon is in its sandbox", || find().is_some());
        find().expect("until() said so")
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.daemon.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is there");
    }

    /// The daemon's end, which must be near.
    fn end(self) -> Outcome {
        let mut this = std::mem::ManuallyDrop::new(self);
        // A daemon put in the place of the one that is taken out; it has ended.
        let stand_in = Command::new("true").spawn().expect("a process");
        let daemon = std::mem::replace(&mut this.daemon, stand_in);
        let outcome = wait(daemon, Duration::from_secs(30));
        drop(std::mem::ManuallyDrop::into_inner(this));
        outcome
    }

    fn vm(&self, transport: &str) -> TestVm {
        let share = format!("tag=src,socket={}", self.socket().display());
        let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
        vm.flag("--fs", &share).mount("src", "/mnt")
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Waits as long as a boot may take.
fn eventually(name: &str, what: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !what() {
        assert!(Instant::now() < end, "waited in vain until {name}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn both(check: impl Fn(&str)) {
    check("pci");
    check("mmio");
}

/// Files of a tree in CI; 20,000 with `the_whole_tree_is_the_same_on_both_sides`, which emulation makes too slow.
const FILES: usize = 1000;

/// A tree with what archives have: modes, times, links of both kinds, holes, odd names.
fn grow(root: &Path, files: usize) {
    for n in 0..files {
        let folder = root.join(format!("d{}", n % 50));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("f{n}"));
        fs::write(&path, format!("{n}\n").repeat(n % 97)).expect("a file");
        let mode = [0o644, 0o755, 0o600, 0o444, 0o4755, 0o2711, 0o000][n % 7];
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + n as u64);
        fs::File::options().read(true).open(&path).expect("root may").set_modified(time).expect("a time");
    }
    let odd = [
        "with space",
        "new\nline",
        "tab\t",
        "ünïcödé",
        "-dash",
        "quote\"'",
        "back\\slash",
        ".hidden",
        "a*?[b]",
    ];
    for name in odd {
        fs::write(root.join(name), name).expect("a file");
    }
    fs::write(root.join("x".repeat(255)), "long").expect("a file");
    fs::hard_link(root.join("d1/f1"), root.join("hard")).expect("a link");
    for (to, name) in [("d1/f1", "soft"), ("/etc/passwd", "absolute"), ("nowhere", "dangling"), ("..", "up")]
    {
        symlink(to, root.join(name)).expect("a link");
    }
    fs::File::create(root.join("sparse")).expect("a file").set_len(64 << 20).expect("a length");
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
}

/// Every file by its path: what can be told of it.
fn census(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let content = match meta.file_type() {
                kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).expect("a link")),
                kind if kind.is_file() => format!("{:?}", digest(&fs::read(&path).expect("a file"))),
                _ => String::new(),
            };
            let times = if meta.is_file() { meta.mtime() } else { 0 };
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let size = if meta.is_dir() { 0 } else { meta.size() };
            let (mode, links) = (meta.mode(), if meta.is_dir() { 0 } else { meta.nlink() });
            found.push(format!(
                "{name:?} {mode:o} {}:{} {size} {times} {links} {content}",
                meta.uid(),
                meta.gid()
            ));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

fn same_on_both_sides(transport: &str, files: usize) {
    let share = Share::new(&["--cache=always"]);
    let original = share.place.path().join("original");
    fs::create_dir(&original).expect("a folder");
    grow(&original, files);
    let tar = |words: &[&str]| {
        let done = Command::new("tar").args(words).current_dir(share.place.path()).status();
        assert!(done.expect("tar runs").success(), "tar {words:?}");
    };
    tar(&["-C", "original", "-cf", "dir/tree.tar", "."]);
    let script = "mkdir /mnt/out && tar -xpf /mnt/tree.tar -C /mnt/out && tar -C /mnt/out -cf /mnt/back.tar . && echo ok";
    let outcome = share.vm(transport).command(&["sh", "-c", script]).run();
    outcome.assert_status(0);
    assert_eq!(outcome.output, "ok\n", "{outcome}");
    let expected = census(&original);
    assert!(expected.len() > files);
    assert_eq!(census(&share.dir().join("out")), expected, "what the guest unpacked, over {transport}");
    fs::create_dir(share.place.path().join("again")).expect("a folder");
    tar(&["-C", "again", "-xpf", "dir/back.tar"]);
    assert_eq!(
        census(&share.place.path().join("again")),
        expected,
        "what the guest packed, over {transport}"
    );
}

#[test]
fn a_tree_is_the_same_on_both_sides() {
    both(|transport| same_on_both_sides(transport, FILES));
}

/// 20,000 files, which takes too long under emulation for every run: `--ignored` has this executable run it.
#[test]
#[ignore = "20,000 files take long under emulation; --ignored runs it"]
fn the_whole_tree_is_the_same_on_both_sides() {
    same_on_both_sides("pci", 20_000);
}

#[test]
fn files_do_in_the_guest_what_posix_says() {
    both(|transport| {
        for words in [&["--cache=auto", "--xattr"][..], &["--cache=never", "--xattr", "--thread-pool-size=8"]]
        {
            let share = Share::new(words);
            let program = tests::program("posix");
            let probe = Command::new(&program).arg("probe").arg(share.dir()).output().expect("it runs");
            let attributes = String::from_utf8(probe.stdout).expect("a word");
            assert!(["yes\n", "no\n"].contains(&attributes.as_str()), "{attributes}");
            fs::copy(program, share.dir().join("posix")).expect("copied");
            let words = ["/mnt/posix", "/mnt", attributes.trim()];
            let outcome = share.vm(transport).cpus(2).command(&words).run();
            outcome.assert_status(0);
            assert!(outcome.output.ends_with("all is as it should be\n"), "{transport}: {outcome}");
        }
    });
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
    let share = Share::new(&["--cache=never"]);
    let script = "touch /mnt/ready; while ! [ -e /mnt/new ]; do sleep 0.1; done; cat /mnt/new; touch /mnt/seen; \
                  while [ -e /mnt/new ]; do sleep 0.1; done; echo gone";
    let vm = share.vm("pci").command(&["sh", "-c", script]);
    let machine = vm.start();
    eventually("the guest is ready", || share.dir().join("ready").exists());
    fs::write(share.place.path().join("part"), "by the host\n").expect("a file");
    fs::rename(share.place.path().join("part"), share.dir().join("new")).expect("moved");
    eventually("the guest has seen it", || share.dir().join("seen").exists());
    fs::remove_file(share.dir().join("new")).expect("removed");
    let outcome = wait(machine, Duration::from_secs(120));
    assert_eq!(outcome.assert_status(0).output, "by the host\ngone\n", "{outcome}");
}

#[test]
fn a_daemon_that_is_killed_leaves_errors_to_the_guest_and_one_line() {
    both(|transport| {
        let share = Share::new(&["--cache=never"]);
        let script = "touch /mnt/ready; dd if=/dev/zero of=/mnt/big bs=64k count=100000 2>/dev/null; echo dd $?; \
                      ls /mnt 2>/dev/null; echo ls $?; echo x > /mnt/x; echo alive";
        let machine = share.vm(transport).command(&["sh", "-c", script]);
        let running = machine.start();
        eventually("the guest writes", || {
            fs::metadata(share.dir().join("big")).is_ok_and(|meta| meta.len() > 1 << 20)
        });
        share.signal(Signal::SIGKILL);
        let outcome = wait(running, Duration::from_secs(120));
        outcome.assert_status(0);
        assert!(
            outcome.output.starts_with("dd 1\nls 1\n") && outcome.output.ends_with("alive\n"),
            "{outcome}"
        );
        let lines = outcome.errors.lines().filter(|line| line.contains("is lost")).count();
        assert_eq!(lines, 1, "{outcome}");
    });
}

#[test]
fn a_daemon_started_anew_is_found_by_a_driver_that_starts_anew() {
    both(|transport| {
        let mut share = Share::new(&["--cache=never"]);
        let script = "touch /mnt/ready 2>/dev/null; while ls /mnt >/dev/null 2>&1; do sleep 0.1; done; umount /mnt; \
                      cd /sys/bus/virtio/drivers/virtiofs; d=$(ls -d virtio*); \
                      until mount -t virtiofs src /mnt && cat /mnt/file; do \
                      umount /mnt; echo $d > unbind; sleep 0.2; echo $d > bind; done 2>/dev/null";
        let running = share.vm(transport).command(&["sh", "-c", script]);
        let running = running.start();
        eventually("the guest is ready", || share.dir().join("ready").exists());
        fs::write(share.dir().join("file"), "back again\n").expect("a file");
        share.signal(Signal::SIGKILL);
        share.daemon.wait().expect("it ended");
        // In the place of the socket that the first one left.
        let mut again = Command::new(tests::virtiofsd());
        again.arg(format!("--socket-path={}", share.socket().display()));
        again.arg(format!("--shared-dir={}", share.dir().display())).args(["--cache=never"]);
        share.daemon = again.stdin(Stdio::null()).spawn().expect("the daemon starts");
        let outcome = wait(running, Duration::from_secs(120));
        assert_eq!(outcome.assert_status(0).output, "back again\n", "{transport}: {outcome}");
    });
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
    let share = Share::new(&[]);
    let machine = share.vm("pci").command(&["sh", "-c", "touch /mnt/ready; while :; do ls /mnt; done"]);
    let running = machine.start();
    eventually("the guest is ready", || share.dir().join("ready").exists());
    let inside = Pid::from_raw(i32::try_from(share.inside()).expect("a process id"));
    kill(inside, Signal::SIGSTOP).expect("it is there");
    let begun = Instant::now();
    kill(Pid::from_raw(i32::try_from(running.id()).expect("a process id")), Signal::SIGTERM)
        .expect("it is there");
    let outcome = wait(running, Duration::from_secs(120));
    outcome.assert_ended_by(15);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    kill(inside, Signal::SIGKILL).expect("it is there");
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

fn field(process: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

fn status_of(process: u32, name: &str) -> String {
    field(process, name).unwrap_or_else(|| panic!("no {name} of process {process}"))
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
    assert_eq!(status_of(share.daemon.id(), "Seccomp"), "2", "and on the process that waits");
    let resident: u32 = status_of(inside, "VmRSS").trim_end_matches(" kB").parse().expect("a number");
    assert!(resident <= 8 << 10, "{resident} KiB resident");
}

#[test]
fn a_full_disk_is_an_error_in_the_guest() {
    let place = tests::scratch();
    let dir = place.path().join("dir");
    fs::create_dir(&dir).expect("a folder");
    let mount = |words: &[&str]| {
        assert!(Command::new(words[0]).args(&words[1..]).arg(&dir).status().expect("it runs").success());
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "small"]);
    let share = Share::of(place, &[]);
    let script = "dd if=/dev/zero of=/mnt/big bs=64k count=64 2>&1 | grep -c 'No space'; rm /mnt/big; echo ok > /mnt/small; cat /mnt/small";
    let outcome = share.vm("pci").command(&["sh", "-c", script]).run();
    assert_eq!(outcome.assert_status(0).output, "1\nok\n", "{outcome}");
    let dir = share.dir();
    assert_eq!(Command::new("umount").arg("-l").arg(dir).status().expect("it runs").code(), Some(0));
}
