//! One boot as a value: what to boot, and what came of it.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A boot takes two to five seconds in the bed; one that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A virtual machine to be.
#[derive(Debug)]
pub struct TestVm {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    command: Option<Vec<String>>,
    serial: String,
    flags: Vec<String>,
    mounts: Vec<guest::Mount>,
    scratch: tempfile::TempDir,
}

impl TestVm {
    /// The 6.1 cloud kernel as ELF with its guest image.
    pub fn boot() -> Self {
        Self::of("6.1-cloud")
    }

    /// The ELF kernel and the guest image of `flavour`.
    pub fn of(flavour: &str) -> Self {
        let home = crate::assets().join(flavour);
        Self {
            kernel: home.join("vmlinux"),
            initrd: Some(home.join("initrd")),
            command: None,
            serial: "stdio".to_owned(),
            flags: Vec::new(),
            mounts: Vec::new(),
            scratch: crate::scratch(),
        }
    }

    /// Another kernel file.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = path.into();
        self
    }

    /// Another initrd, or none; a command cannot be given to it.
    pub fn initrd(mut self, path: Option<&Path>) -> Self {
        self.initrd = path.map(Path::to_owned);
        self
    }

    /// Virtual CPUs.
    pub fn cpus(self, n: u8) -> Self {
        self.flag("--cpus", &n.to_string())
    }

    /// Guest memory, as the flag takes it.
    pub fn memory(self, size: &str) -> Self {
        self.flag("--memory", size)
    }

    /// Another target of the serial port than this process's standard input and output.
    pub fn serial(mut self, target: &str) -> Self {
        target.clone_into(&mut self.serial);
        self
    }

    /// A flag with its value.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// Has the guest mount the share `tag` at `place` before it runs its command.
    pub fn mount(mut self, tag: &str, place: &str) -> Self {
        let (kind, source, place) = ("virtiofs".to_owned(), tag.to_owned(), place.to_owned());
        self.mounts.push(guest::Mount { kind, source, place });
        self
    }

    /// What the guest runs.
    pub fn command(mut self, argv: &[&str]) -> Self {
        self.command = Some(argv.iter().map(|w| (*w).to_owned()).collect());
        self
    }

    /// This test's own folder, gone with it.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Boots, waits for the end, and checks that nothing is left behind.
    pub fn run(self) -> Outcome {
        let child = self.start();
        let outcome = wait(child, DEADLINE);
        let left: Vec<_> = fs::read_dir(self.scratch.path())
            .expect("the scratch folder can be listed")
            .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.ends_with(".sock") || name.ends_with(".pid"))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}\n{outcome}");
        outcome
    }

    /// Boots; the caller sees to the end.
    pub fn start(&self) -> Child {
        let mut vmm = self.words();
        vmm.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        vmm.spawn().expect("vmm starts")
    }

    /// The command line, for who starts it in a way of its own.
    pub fn words(&self) -> Command {
        let mut vmm = Command::new(crate::vmm());
        vmm.arg("--kernel").arg(&self.kernel);
        if let Some(initrd) = self.packed() {
            vmm.arg("--initrd").arg(initrd);
        }
        vmm.args(["--serial", &self.serial]).args(&self.flags);
        if self.command.is_some() {
            vmm.arg("--guest-status");
        }
        vmm
    }

    /// Boots the same kernel and initrd by a program that takes the two and nothing else, and waits for its end.
    pub fn run_by(self, program: &Path) -> Outcome {
        let mut embedder = Command::new(program);
        embedder.arg(&self.kernel).args(self.packed());
        embedder.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        wait(embedder.spawn().expect("the program starts"), DEADLINE)
    }

    /// The initrd with the command behind it; made once, for an earlier start may still be reading it.
    fn packed(&self) -> Option<PathBuf> {
        let (base, command) = (self.initrd.as_ref()?, self.command.as_ref());
        let Some(argv) = command else { return Some(base.clone()) };
        let path = self.scratch.path().join("initrd");
        if path.exists() {
            return Some(path);
        }
        let mut bytes = fs::read(base).expect("the initrd can be read");
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let (argv, mounts) = (argv.clone(), self.mounts.clone());
        let command = guest::Command { argv, mounts, ..guest::Command::default() };
        bytes.extend(command.segment().expect("a command"));
        fs::write(&path, bytes).expect("the initrd can be written");
        Some(path)
    }
}

/// What came of a boot.
#[derive(Debug)]
pub struct Outcome {
    /// How the process ended.
    pub status: ExitStatus,
    /// Its standard output: the guest's serial port.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n--- output\n{}\n--- errors\n{}", self.status, self.output, self.errors)
    }
}

impl Outcome {
    /// Fails the test unless the exit status is `status`.
    pub fn assert_status(&self, status: i32) -> &Self {
        assert_eq!(self.status.code(), Some(status), "{self}");
        self
    }

    /// Fails the test unless signal `n` ended the process: in order, or by default where it came that early.
    pub fn assert_ended_by(&self, n: i32) -> &Self {
        let by_default = self.status.signal() == Some(n);
        assert!(by_default || self.status.code() == Some(128 + n), "{self}");
        self
    }

    /// Fails the test unless standard error is one sentence with all of `words`.
    pub fn assert_sentence(&self, words: &[&str]) -> &Self {
        assert!(!self.errors.contains("panicked") && !self.errors.contains("bug"), "{self}");
        assert!(self.errors.starts_with("vmm: ") && self.errors.lines().count() == 1, "{self}");
        assert!(words.iter().all(|w| self.errors.contains(w)), "wants {words:?}: {self}");
        self
    }
}

/// Waits for `child`, reading all it says; kills it and fails at the deadline.
pub fn wait(mut child: Child, deadline: Duration) -> Outcome {
    let output = reader(child.stdout.take().expect("piped"));
    let errors = reader(child.stderr.take().expect("piped"));
    let end = Instant::now() + deadline;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break Some(status);
        }
        if Instant::now() >= end {
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let hung = status.is_none();
    if hung {
        let _ = child.kill();
    }
    let status = status.unwrap_or_else(|| child.wait().expect("the child can be waited for"));
    let text =
        |r: mpsc::Receiver<Vec<u8>>| String::from_utf8_lossy(&r.recv().unwrap_or_default()).into_owned();
    let outcome = Outcome { status, output: text(output), errors: text(errors) };
    assert!(!hung, "hung for {deadline:?}: {outcome}");
    outcome
}

fn reader(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = tell.send(bytes);
    });
    told
}

/// Waits until `what` holds; fails the test, saying `what`'s name, when it does not within half a minute.
pub fn until(name: &str, mut what: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !what() {
        assert!(Instant::now() < end, "waited in vain until {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
