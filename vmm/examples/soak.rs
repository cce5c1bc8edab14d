//! Boots one machine after another in this process, and the binary as often, and watches for what is left behind:
//! descriptors, threads, memory.
//!
//! `soak KERNEL INITRD COUNT [VMM]`; `cargo xtask soak` runs it. The initrd's init writes `KIWI-MARK` and powers off.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use vmm::config::{BootConfig, ConsoleTarget, MemoryConfig};
use vmm::{Exit, VmBuilder, VmConfig};

type Failure = Box<dyn Error>;

const MARKER: &str = "KIWI-MARK";
/// Boots until everything that is made once has been made.
const WARM_UP: u32 = 20;
/// A guest that is silent for so long hangs.
const SILENCE: Duration = Duration::from_secs(120);
/// What an allocator may keep for itself, in KiB: far less than a byte for each byte of a machine's own.
const SLACK: u64 = 256;

/// What this process has, by the kernel's own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: u64,
    threads: u64,
    /// KiB resident that are no file's.
    anonymous: u64,
    /// KiB of address space.
    mapped: u64,
}

impl Held {
    fn now() -> Result<Self, Failure> {
        let status = fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| format!("/proc/self/status has no {name}"))
        };
        Ok(Self {
            descriptors: fs::read_dir("/proc/self/fd")?.count() as u64,
            threads: field("Threads:")?,
            anonymous: field("RssAnon:")?,
            mapped: field("VmSize:")?,
        })
    }

    fn leaked_since(&self, before: &Self) -> bool {
        self.descriptors != before.descriptors
            || self.threads != before.threads
            || self.anonymous > before.anonymous + SLACK
            || self.mapped > before.mapped + SLACK
    }
}

fn main() -> Result<(), Failure> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let (kernel, initrd, count, vmm) = match words.as_slice() {
        [kernel, initrd, count] => (kernel, initrd, count, None),
        [kernel, initrd, count, vmm] => (kernel, initrd, count, Some(vmm)),
        _ => return Err("usage: soak KERNEL INITRD COUNT [VMM]".into()),
    };
    let count: u32 = count.to_string_lossy().parse()?;
    repeat("machine in one process", count, || in_process(kernel, initrd))?;
    if let Some(vmm) = vmm {
        repeat("vmm by itself", count, || by_itself(vmm, kernel, initrd))?;
    }
    Ok(())
}

/// Boots `count` times and compares what is held after the warm-up and at the end.
fn repeat(what: &str, count: u32, boot: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
    let mut before = Held::now()?;
    for n in 1..=count {
        boot().map_err(|why| format!("{what}, boot {n} of {count}: {why}"))?;
        if n == WARM_UP.min(count) {
            before = Held::now()?;
        }
        if n % 10 == 0 || n == count {
            println!("{what}: {n} of {count}, {:?}", Held::now()?);
        }
    }
    let after = Held::now()?;
    if after.leaked_since(&before) {
        return Err(format!("{what}: something is left behind: {before:?}, then {after:?}").into());
    }
    println!("{what}: {count} boots, nothing left behind: {before:?}, then {after:?}");
    Ok(())
}

fn in_process(kernel: &Path, initrd: &Path) -> Result<(), Failure> {
    let console = std::env::temp_dir().join(format!("soak-{}", std::process::id()));
    let config = VmConfig {
        boot: BootConfig { kernel: kernel.to_owned(), initrd: Some(initrd.to_owned()), cmdline: None },
        memory: MemoryConfig { size: 256 << 20, ..MemoryConfig::default() },
        serial: ConsoleTarget::File(console.clone()),
        ..VmConfig::default()
    };
    let exit = VmBuilder::from(config).build()?.start()?.wait(None, Some(SILENCE))?;
    let said = fs::read_to_string(&console)?;
    fs::remove_file(&console)?;
    match exit {
        Exit::Shutdown { .. } if said.contains(MARKER) => Ok(()),
        exit => Err(format!("{exit}; it said: {said}").into()),
    }
}

fn by_itself(vmm: &Path, kernel: &Path, initrd: &Path) -> Result<(), Failure> {
    let mut command = Command::new(vmm);
    command.arg("--kernel").arg(kernel).arg("--initrd").arg(initrd);
    command.args(["--memory", "256M", "--serial", "stdio", "--silence", "120"]).stdin(Stdio::null());
    let out = command.output()?;
    let said = String::from_utf8_lossy(&out.stdout);
    if out.status.success() && said.contains(MARKER) {
        return Ok(());
    }
    Err(format!("{}; it said: {said}{}", out.status, String::from_utf8_lossy(&out.stderr)).into())
}
