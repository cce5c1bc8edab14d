//! The bed for measurements: everything in its memory, nothing of this machine mounted, one thing running.
//!
//! 1. Programs, libraries, kernels and a plan go into the L1's own initrd, which is its root file system.
//! 2. The plan's command runs with its output on the second serial port; each of its lines is a sign of life.
//! 3. The last line is `end STATUS`. Without it the bed has died, or hangs.
//!
//! On the *instruction clock* every emulated instruction takes a nanosecond, whatever else this machine does:
//! kernel, VMM and guest are counted together, and two runs differ by less than a ten-thousandth.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use guest::Archive;

use super::watch::{self, Ended};
use super::{Bed, busybox};
use crate::error::{Doing, Error, Result};
use crate::host;

/// What a closed bed's time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// A nanosecond an instruction.
    Instructions,
    /// This machine's.
    Wall,
}

/// Kernel modules of the L1: KVM, and what serves the devices of a guest.
const MODULES: [&str; 4] = ["kvm_amd", "tun", "vhost_net", "vhost_vsock"];

/// Addresses must not change from run to run: they decide how caches and tables of the emulation are hit.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr norandmaps";

const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /tmp /run
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
$b mount -t debugfs debugfs /sys/kernel/debug; $b mount -t tracefs tracefs /sys/kernel/tracing
$b mount -t tmpfs -o size=75% tmp /tmp
while read m; do $b insmod /lib/modules/$m; done < /lib/modules/order
$b stty -F /dev/ttyS1 115200 raw -echo
exec >/dev/ttyS1 2>&1 </dev/null
/bin/busybox sh /job
echo "end $?"
$b stty -F /dev/ttyS1 raw
$b poweroff -f
"#;

/// Files for a closed bed, and the command that runs there.
pub(crate) struct Load {
    archive: Archive,
    job: String,
}

impl Load {
    /// An empty load whose command is the shell line `job`.
    pub(crate) fn new(job: &str) -> Self {
        Self { archive: Archive::new(), job: job.to_owned() }
    }

    /// Puts `content` at `path` in the bed.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.archive.file(path.trim_start_matches('/'), mode, content);
    }

    /// Puts this machine's file `from` at `path` in the bed.
    pub(crate) fn copy(&mut self, from: &Path, path: &str, mode: u32) -> Result<()> {
        let content = std::fs::read(from).doing(format_args!("reading {}", from.display()))?;
        self.file(path, mode, content);
        Ok(())
    }

    /// Puts the program `from` at `path`, with the shared libraries it asks for at their own places.
    pub(crate) fn program(&mut self, from: &Path, path: &str) -> Result<()> {
        self.copy(from, path, 0o755)?;
        for library in libraries(from)? {
            self.copy(&library, &library.display().to_string(), 0o755)?;
        }
        Ok(())
    }
}

/// The shared libraries of a program, its loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = host::output(Command::new("ldd").arg(program))?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}

impl Bed {
    /// Runs `load` in a bed of its own, with `clock`; gives each line of its output but the last to `take`.
    pub(crate) fn run_closed(
        &self,
        load: Load,
        clock: Clock,
        limit: Duration,
        take: impl FnMut(&str) + Send,
    ) -> Result<()> {
        let run = self.fresh("closed")?;
        let (initrd, console) = (run.join("initrd"), run.join("console.log"));
        let bytes = self.packed(load)?;
        std::fs::write(&initrd, bytes).doing(format_args!("writing {}", initrd.display()))?;
        let mut child = self.closed(&initrd, &console, clock).spawn().doing("starting qemu-system-x86_64")?;
        let output = child.stdout.take().ok_or_else(|| Error::new("the bed has no output"))?;
        let signs = Arc::new(AtomicU64::new(0));
        let (ended, status) = std::thread::scope(|scope| {
            let counted = signs.clone();
            let reader = scope.spawn(move || lines(output, &counted, take));
            let alive = || signs.load(Ordering::Relaxed) + watch::length(&console);
            let ended = watch::wait(&mut child, limit, alive);
            (ended, reader.join().unwrap_or(None))
        });
        self.verdict(ended, status, &run, &console)
    }

    fn verdict(&self, ended: Ended, status: Option<u8>, run: &Path, console: &Path) -> Result<()> {
        match status {
            Some(0) => {
                let _ = std::fs::remove_dir_all(run);
                Ok(())
            }
            Some(status) => {
                Err(Error::new(format!("the command in the test bed ended with status {status}")))
            }
            None => Err(watch::failure(ended, console)),
        }
    }

    fn packed(&self, load: Load) -> Result<Vec<u8>> {
        let Load { mut archive, job } = load;
        archive.file("init", 0o755, INIT);
        archive.file("job", 0o644, job);
        archive.file("bin/busybox", 0o755, busybox()?);
        archive.char_device("dev/console", (5, 1));
        super::add_modules(&mut archive, &self.tree()?, &MODULES, "order")?;
        archive.to_bytes().doing("writing the bed's initrd")
    }

    fn closed(&self, initrd: &Path, console: &Path, clock: Clock) -> Command {
        let mut qemu = self.emulator(initrd, console, "5G");
        qemu.arg("-append").arg(CMDLINE).args(["-chardev", "stdio,id=job,signal=off"]);
        qemu.args(["-serial", "chardev:job"]).stdin(Stdio::null()).stdout(Stdio::piped());
        if clock == Clock::Instructions {
            qemu.args(["-icount", "shift=0,sleep=on", "-seed", "1"]);
            qemu.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
        }
        qemu
    }
}

/// Gives each line to `take`; the status of the last one.
fn lines(output: ChildStdout, signs: &AtomicU64, mut take: impl FnMut(&str)) -> Option<u8> {
    let mut status = None;
    for line in BufReader::new(output).split(b'\n').map_while(std::result::Result::ok) {
        signs.fetch_add(1, Ordering::Relaxed);
        let line = String::from_utf8_lossy(&line);
        match line.trim().strip_prefix("end ").map(str::parse) {
            Some(Ok(number)) => status = Some(number),
            _ => take(line.trim_end()),
        }
    }
    status
}
