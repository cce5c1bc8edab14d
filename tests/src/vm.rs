//! One boot as a value: what to boot, and what came of it.

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What takes this long hangs: a boot takes two to five seconds in the bed, and the longest work of a guest about a
/// minute. So long because it tells a hang from a machine that has other things to do, and no test is better for less.
pub const DEADLINE: Duration = Duration::from_secs(300);

/// A virtual machine to be.
#[derive(Debug)]
pub struct TestVm {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    command: Option<Vec<String>>,
    serial: String,
    flags: Vec<String>,
    files: Vec<(String, PathBuf)>,
    before: Vec<String>,
    deadline: Duration,
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
            files: Vec::new(),
            before: Vec::new(),
            deadline: DEADLINE,
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

    /// Another value for a flag that is given already.
    pub fn replace_flag(mut self, name: &str, value: &str) -> Self {
        let at = self.flags.iter().position(|flag| flag == name).expect("a flag that is given");
        value.clone_into(self.flags.get_mut(at + 1).expect("a flag has a value"));
        self
    }

    /// Longer than a boot may take, for a guest with much to do.
    pub fn within(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Words before the program's own, of a command that becomes it.
    pub fn by(mut self, words: &[&str]) -> Self {
        self.before = words.iter().map(|w| (*w).to_owned()).collect();
        self
    }

    /// More of such words.
    pub fn by_also(mut self, words: &[&str]) -> Self {
        self.before.extend(words.iter().map(|w| (*w).to_owned()));
        self
    }

    /// A program of the host's, to be found in the guest at `place`, without a slash in front.
    pub fn program(mut self, place: &str, path: impl Into<PathBuf>) -> Self {
        self.files.push((place.to_owned(), path.into()));
        self
    }

    /// A program of the host's at `path` with the libraries that it needs, to be found in the guest at `place`.
    pub fn host_program(self, place: &str, path: &str) -> Self {
        let ldd = Command::new("ldd").arg(path).output().expect("it runs");
        let text = String::from_utf8(ldd.stdout).expect("a list");
        let words = text.split_whitespace().filter(|word| word.starts_with('/'));
        words.fold(self.program(place, path), |vm, library| {
            vm.program(library.trim_start_matches('/'), library)
        })
    }

    /// The test's own program ([`crate::peer`]), the guest's command `peer`.
    pub fn peer(self) -> Self {
        self.program("bin/peer", crate::peer::program())
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
        let outcome = wait_within(child, self.deadline);
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

    /// Boots; what the guest says can be waited for, it can be told to go on, and the machine ends with the value at the
    /// latest.
    pub fn launch(self) -> Running {
        let console = self.scratch.path().join("console.txt");
        let mut vmm = self.words();
        vmm.stdin(Stdio::piped()).stdout(fs::File::create(&console).expect("a file")).stderr(Stdio::piped());
        Running { child: Some(vmm.spawn().expect("vmm starts")), console, vm: self }
    }

    /// The command line, for who starts it in a way of its own.
    pub fn words(&self) -> Command {
        let mut vmm = match self.before.split_first() {
            None => Command::new(crate::vmm()),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(crate::vmm());
                command
            }
        };
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
        wait(embedder.spawn().expect("the program starts"))
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
        if !self.files.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(self.archive());
        }
        fs::write(&path, bytes).expect("the initrd can be written");
        Some(path)
    }
}

impl TestVm {
    fn archive(&self) -> Vec<u8> {
        let mut archive = guest::Archive::new();
        for (place, path) in &self.files {
            archive.file(place, 0o755, fs::read(path).expect("the program can be read"));
        }
        archive.to_bytes().expect("an archive")
    }
}

/// A machine at work. A test that fails ends it, and what it said is printed.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    /// Where the guest's words go.
    console: PathBuf,
    /// Its folder holds what it boots from.
    vm: TestVm,
}

impl Running {
    /// The process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it is at work").id()
    }

    /// All that the guest has said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the guest says `words`, or the machine ends, which fails the test.
    pub fn wait_for(&mut self, words: &str) {
        let end = Instant::now() + self.vm.deadline;
        while !self.said().contains(words) {
            let child = self.child.as_mut().expect("it is at work");
            let over = child.try_wait().expect("the child can be waited for").is_some();
            assert!(!over && Instant::now() < end, "the guest never said {words:?} but: {}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives the guest a line to read. A guest that is to be looked at stays as it is by a `read word` in its script, and
    /// not by a sleep: nobody knows how late this process comes to look.
    pub fn tell(&mut self, word: &str) {
        let child = self.child.as_mut().expect("it is at work");
        writeln!(child.stdin.as_mut().expect("piped"), "{word}").expect("it listens");
    }

    /// Waits until the guest says `words`, and ends it.
    pub fn end_when(mut self, words: &str) -> Outcome {
        self.wait_for(words);
        self.end()
    }

    /// Ends it in order, by a signal.
    pub fn end(self) -> Outcome {
        let outcome = self.signal(nix::sys::signal::Signal::SIGTERM);
        outcome.assert_ended_by(15);
        outcome
    }

    /// Ends it at once, as a crash would.
    pub fn kill(self) {
        self.signal(nix::sys::signal::Signal::SIGKILL);
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Outcome {
        let mut outcome = wait_within(self.child.take().expect("it is at work"), self.vm.deadline);
        outcome.output = self.said();
        outcome
    }

    fn signal(self, signal: nix::sys::signal::Signal) -> Outcome {
        let id = nix::unistd::Pid::from_raw(i32::try_from(self.id()).expect("a process id"));
        nix::sys::signal::kill(id, signal).expect("it is there");
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            println!("a machine was still at work: {}{}", wait(child), self.said());
        }
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

    /// Fails the test unless all of `words` are on standard error, where the log is, with no panic and no bug.
    pub fn assert_logged(&self, words: &[&str]) -> &Self {
        assert!(!self.errors.contains("panicked") && !self.errors.contains("bug"), "{self}");
        assert!(words.iter().all(|w| self.errors.contains(w)), "wants {words:?}: {self}");
        self
    }

    /// Fails the test unless standard error is one sentence with all of `words`.
    pub fn assert_sentence(&self, words: &[&str]) -> &Self {
        assert!(self.errors.starts_with("vmm: ") && self.errors.lines().count() == 1, "{self}");
        self.assert_logged(words)
    }
}

impl Outcome {
    /// How often vCPUs came back to `vmm`, by the boot report that `--report json` wrote.
    pub fn returns_to_userspace(&self) -> u64 {
        let report: serde_json::Value =
            serde_json::from_str(&self.errors).expect("a report and nothing else");
        let spans = report["spans"].as_array().expect("spans");
        spans.iter().map(|span| span["exits"]["to_userspace"].as_u64().expect("a count")).sum()
    }
}

/// Waits for `child`, reading all it says; kills it and fails when it hangs.
pub fn wait(child: Child) -> Outcome {
    wait_within(child, DEADLINE)
}

fn wait_within(mut child: Child, deadline: Duration) -> Outcome {
    // What goes to a file is read there.
    let output = child.stdout.take().map(reader);
    let errors = child.stderr.take().map(reader);
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
    let text = |from: Option<mpsc::Receiver<Vec<u8>>>| {
        let bytes = from.and_then(|from| from.recv().ok()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
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

/// Waits until `what` holds; fails the test, saying `what`'s name, when a boot would be taken for hung.
pub fn until(name: impl Display, mut what: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !what() {
        assert!(Instant::now() < end, "waited in vain until {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
