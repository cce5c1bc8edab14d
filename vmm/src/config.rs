//! What a virtual machine is made of, as plain data: the schema of `--config FILE.json` and of an embedder.
//!
//! Text (flags, JSON) becomes a [`VmConfig`] in the command line's own module; rules are checked in one place
//! before anything is built. Every field has a default, so `VmConfig::default()` plus a kernel is a machine.

mod disk;
mod file;
mod fs;
mod net;
mod size;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use disk::DiskConfig;
pub use file::{FileError, parse, read};
pub use fs::FsConfig;
pub use net::{Mac, NetConfig, NoMac, VhostMode, VsockConfig};

/// A whole machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmConfig {
    /// What to boot.
    pub boot: BootConfig,
    /// Virtual CPUs.
    pub cpus: CpusConfig,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// COM1, a 16550A serial port.
    pub serial: ConsoleTarget,
    /// The virtio console (hvc0); absent means no such device.
    pub console: Option<ConsoleTarget>,
    /// What may pass through the virtio console in a second, each way.
    pub console_limits: LimitsConfig,
    /// The entropy device; absent means no such device.
    pub rng: Option<RngConfig>,
    /// Network devices.
    pub nets: Vec<NetConfig>,
    /// The socket device; absent means no such device.
    pub vsock: Option<VsockConfig>,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// The balloon; absent means no such device.
    pub balloon: Option<BalloonConfig>,
    /// Directories of the host, each served by a daemon of its own.
    pub fs: Vec<FsConfig>,
    /// How virtio devices are attached.
    pub transport: Transport,
    /// Whether each thread confines itself to the system calls it needs.
    pub seccomp: SeccompMode,
    /// Seconds without a sign of life (console byte, boot mark) before init runs its command, after which the
    /// machine is ended and the boot doctor is asked; 0 for no limit.
    pub silence: u32,
}

impl VmConfig {
    /// Guest memory as the devices need it: one that another process serves needs it shared.
    pub fn ram(&self) -> MemoryConfig {
        MemoryConfig { shared: self.memory.shared || !self.fs.is_empty(), ..self.memory }
    }
}

/// Kernel, initrd and command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootConfig {
    /// A bzImage (vmlinuz) or an ELF vmlinux.
    pub kernel: PathBuf,
    /// An initial RAM disk, in any format the kernel reads.
    pub initrd: Option<PathBuf>,
    /// The kernel command line, used exactly as it stands; absent means the tuned default.
    pub cmdline: Option<String>,
}

/// Virtual CPUs: one socket of `boot` cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpusConfig {
    /// CPUs present at boot, 1 to 32.
    pub boot: u8,
    /// CPUs there may ever be; absent means `boot`.
    pub max: Option<u8>,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self { boot: 1, max: None }
    }
}

/// Guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Size in bytes, a multiple of 4096, at least 64 MiB. JSON may say it in words: "2G".
    #[serde(deserialize_with = "size::deserialize")]
    pub size: u64,
    /// Backed by a memfd that other processes can map (vhost-user needs it).
    pub shared: bool,
    /// Backed by 2 MiB hugetlbfs pages.
    pub hugepages: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { size: 512 << 20, shared: false, hugepages: false }
    }
}

/// Where a console's bytes go and come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleTarget {
    /// The device is absent.
    Off,
    /// The device is there, output is discarded, input is silent.
    #[default]
    Null,
    /// This process's terminal, put in raw mode while the guest runs.
    Tty,
    /// This process's standard input and output as they are (pipes, files).
    Stdio,
    /// Output appended to a file.
    File(PathBuf),
    /// A new pseudo-terminal; its path is logged.
    Pty,
    /// A listening unix socket; one reader at a time, or none, never blocks the guest.
    Socket(PathBuf),
}

/// The entropy device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RngConfig {
    /// Where the host's randomness is read from.
    pub src: PathBuf,
    /// Bytes a second at most; absent means no limit. JSON may say it in words: "64K".
    #[serde(deserialize_with = "size::optional")]
    pub bw: Option<u64>,
    /// Requests a second at most; absent means no limit.
    pub ops: Option<u64>,
}

/// What may pass in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes at most; absent means no limit. JSON may say it in words: "100M".
    #[serde(deserialize_with = "size::optional")]
    pub bw: Option<u64>,
    /// Operations at most; absent means no limit.
    pub ops: Option<u64>,
}

impl Default for RngConfig {
    fn default() -> Self {
        Self { src: PathBuf::from("/dev/urandom"), bw: None, ops: None }
    }
}

/// The balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalloonConfig {
    /// How much memory the guest shall give back from the start, in bytes. JSON may say it in words.
    #[serde(deserialize_with = "size::deserialize")]
    pub size: u64,
    /// The guest may take memory back when it runs out of it.
    pub deflate_on_oom: bool,
    /// The guest reports pages that it has no use for, which are given back too.
    pub free_page_reporting: bool,
}

/// How virtio devices are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// PCI functions with MSI-X behind an ECAM host bridge.
    #[default]
    Pci,
    /// Register blocks announced by ACPI (`LNRO0005`).
    Mmio,
}

/// What the seccomp filters do with a system call that is on no list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeccompMode {
    /// No filter.
    Off,
    /// End the process, naming the call and the thread.
    #[default]
    On,
    /// Let it through and have the kernel log it.
    Log,
}
