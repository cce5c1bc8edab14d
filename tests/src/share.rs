//! A directory of the host's and the daemon that serves it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Outcome, TestVm, until, wait};

/// Whose daemon serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `kiwi-virtiofsd`.
    Ours,
    /// The `virtiofsd` of crates.io.
    Theirs,
}

impl Server {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ours, Self::Theirs];

    fn program(self) -> PathBuf {
        match self {
            Self::Ours => crate::virtiofsd(),
            Self::Theirs => crate::other_virtiofsd(),
        }
    }
}

/// A shared directory and its daemon. Both go with the value.
#[derive(Debug)]
pub struct Share {
    /// Before the folder that it is in.
    _mount: Option<Mount>,
    place: tempfile::TempDir,
    server: Server,
    words: Vec<String>,
    daemon: Child,
}

/// Something mounted; unmounted with the value, whatever becomes of the test.
#[derive(Debug)]
struct Mount(PathBuf);

impl Mount {
    fn new(words: &[&str], at: PathBuf) -> Self {
        host("mount", words, &at);
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

impl Share {
    /// A new directory, served by our daemon with these words besides.
    pub fn new(words: &[&str]) -> Self {
        Self::by(Server::Ours, words)
    }

    /// A new directory.
    pub fn by(server: Server, words: &[&str]) -> Self {
        Self::of(folder(), None, server, words)
    }

    /// A new directory on an ext4 of so many MiB, which has users' attributes and ACLs, as the tmpfs of scratch folders
    /// has not before Linux 6.6.
    pub fn on_disk(mebibytes: u32, server: Server, words: &[&str]) -> Self {
        let place = folder();
        let image = place.path().join("image");
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(u64::from(mebibytes) << 20))
            .expect("a file");
        // Small ones would have small blocks, and with them small attributes.
        host("mkfs.ext4", &["-q", "-m0", "-b4096"], &image);
        let mount = Mount::new(&["-o", "loop", &image.display().to_string()], place.path().join("dir"));
        Self::of(place, Some(mount), server, words)
    }

    /// A new directory on a tmpfs of its own, of so many MiB.
    pub fn on_tmpfs(mebibytes: u32, server: Server, words: &[&str]) -> Self {
        let (place, size) = (folder(), format!("size={mebibytes}m"));
        let mount = Mount::new(&["-t", "tmpfs", "-o", &size, "tmpfs"], place.path().join("dir"));
        Self::of(place, Some(mount), server, words)
    }

    fn of(place: tempfile::TempDir, mount: Option<Mount>, server: Server, words: &[&str]) -> Self {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let daemon = start(server, place.path(), &words);
        let share = Self { _mount: mount, place, server, words, daemon };
        until("the daemon listens", || share.socket().exists());
        share
    }

    /// Ends the daemon as a crash would, and starts another in its place once nothing of it is left: the process in the
    /// sandbox dies a moment after the one that waits for it, and virtiofsd's holds a lock that the next one wants.
    pub fn start_anew(&mut self) {
        let children = children(self.daemon.id());
        self.signal(Signal::SIGKILL);
        self.daemon.wait().expect("it ended");
        let gone = |child: &u32| status_field(*child, "State").is_none_or(|state| state.starts_with('Z'));
        until("the daemon's processes have ended", || children.iter().all(gone));
        self.daemon = start(self.server, self.place.path(), &self.words);
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("fs.sock")
    }

    /// What is shared.
    pub fn dir(&self) -> PathBuf {
        self.place.path().join("dir")
    }

    /// A folder of the test's own, which the shared directory is in.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The daemon itself: process 1 of its namespace, a child of the process that waits for it.
    pub fn inside(&self) -> u32 {
        let first = |child: &u32| status_field(*child, "NSpid").is_some_and(|pids| pids.ends_with("\t1"));
        let find = || children(self.daemon.id()).into_iter().find(first);
        until("the daemon is in its sandbox", || find().is_some());
        find().expect("until() said so")
    }

    /// The process that was started.
    pub fn id(&self) -> u32 {
        self.daemon.id()
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.daemon.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is there");
    }

    /// The daemon's end, which must be near.
    pub fn end(mut self) -> Outcome {
        // In the place of the daemon that is taken out; it has ended.
        let stand_in = Command::new("true").spawn().expect("a process");
        wait(std::mem::replace(&mut self.daemon, stand_in))
    }

    /// A machine that has it at /mnt.
    pub fn vm(&self, transport: &str) -> TestVm {
        let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
        self.given_to(vm, "src", "/mnt")
    }

    /// `vm`, which has it at `place`, too.
    pub fn given_to(&self, vm: TestVm, tag: &str, place: &str) -> TestVm {
        vm.flag("--fs", &format!("tag={tag},socket={}", self.socket().display())).mount(tag, place)
    }
}

/// What the kernel says of a process under `name` in /proc.
pub fn status_field(process: u32, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.map(|value| value.trim().to_owned())
}

fn children(process: u32) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

fn folder() -> tempfile::TempDir {
    let place = crate::scratch();
    std::fs::create_dir(place.path().join("dir")).expect("a folder");
    place
}

fn host(program: &str, words: &[&str], path: &Path) {
    let status = Command::new(program).args(words).arg(path).status().expect("it runs");
    assert!(status.success(), "{program} {words:?} {}: {status}", path.display());
}

fn start(server: Server, place: &Path, words: &[String]) -> Child {
    let mut daemon = Command::new(server.program());
    daemon.arg(format!("--socket-path={}", place.join("fs.sock").display()));
    daemon.arg(format!("--shared-dir={}", place.join("dir").display())).args(words);
    daemon.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    daemon.spawn().expect("the daemon starts")
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
