//! `cargo xtask boot`: the host's own kernel, a generated initrd, our own VMM, your command.

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use guest::{Compression, Manifest, Source, Spec};
use guest_kernel::Cache;

use crate::bed::{Bed, INSIDE, Job};
use crate::build::{self, Programs};
use crate::error::{Doing, Error, Result};
use crate::network::{self, Network};
use crate::{host, kernels};

/// Boot the host's own kernel with a generated initrd.
#[derive(clap::Args)]
pub(crate) struct Boot {
    /// Virtual CPUs
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Guest memory
    #[arg(long, default_value = "512M")]
    memory: String,
    /// How virtio devices are attached: pci or mmio
    #[arg(long, default_value = "pci")]
    transport: String,
    /// A disk for the guest, a raw image or a block device; may be given again
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,
    /// Give the guest a network: a namespace and a tap of its own, gone with it; needs root
    #[arg(long)]
    net: bool,
    /// Show the kernel's console on standard error instead of keeping it in a log
    #[arg(long)]
    show_console: bool,
    /// A directory to share: the command runs in it, at /mnt
    #[arg(long)]
    share: Option<PathBuf>,
    /// Command to run in the guest; without one, a shell
    #[arg(last = true)]
    command: Vec<String>,
}

/// How long a boot in the bed may take; nobody waits longer for an emulated one.
const LIMIT: Duration = Duration::from_secs(3600);

impl Boot {
    pub(crate) fn run(self) -> Result<u8> {
        let programs = build::programs()?;
        let source = kernels::of_host()?;
        let image = image(&source, &programs, &host::target().join("guest"))?;
        let network = self.net.then(Network::new);
        let initrd = self.initrd(&image, network.as_ref())?;
        let mut words = self.words(&programs, &image, &initrd);
        if let Some(network) = &network {
            host::need(&network::NEEDS)?;
            words.extend(network.flag());
            words = network.around(words);
        }
        let status =
            if std::env::var_os(INSIDE).is_some() { self.here(&words) } else { self.anywhere(words) };
        let _ = fs::remove_file(&initrd);
        status
    }

    fn anywhere(&self, words: Vec<OsString>) -> Result<u8> {
        match host::runs_guests()? {
            Ok(()) => self.here(&words),
            Err(why) => {
                eprintln!("xtask: {why}; using the test bed");
                Bed::prepare()?.run(&Job::new(words), LIMIT)
            }
        }
    }

    fn here(&self, words: &[OsString]) -> Result<u8> {
        let (program, rest) =
            words.split_first().map_or((OsString::from("vmm"), words), |(p, r)| (p.clone(), r));
        let mut vmm = Command::new(program);
        vmm.args(rest);
        if !std::io::stdin().is_terminal() && std::env::var_os("CI").is_some() {
            vmm.stdin(Stdio::null());
        }
        let status = vmm.status().doing("starting the vmm")?;
        Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(crate::error::STATUS))
    }

    /// The image's initrd with the command behind it, in a file of this run's own.
    fn initrd(&self, image: &Image, network: Option<&Network>) -> Result<PathBuf> {
        let command = guest::Command {
            argv: network.map_or_else(|| self.command.clone(), |network| network.before(&self.command)),
            interactive: self.command.is_empty() && std::io::stdin().is_terminal(),
            mounts: self.share.iter().map(|_| mount()).collect(),
            folder: self.share.as_ref().map(|_| PLACE.to_owned()),
            ..guest::Command::default()
        };
        let mut bytes = fs::read(&image.initrd).doing(format_args!("reading {}", image.initrd.display()))?;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(command.segment().doing("packing the command")?);
        let path = image.initrd.with_extension(format!("run-{}", std::process::id()));
        fs::write(&path, bytes).doing(format_args!("writing {}", path.display()))?;
        Ok(path)
    }

    fn words(&self, programs: &Programs, image: &Image, initrd: &Path) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![programs.vmm.clone().into()];
        let mut put = |flag: &str, value: OsString| words.extend([flag.into(), value]);
        put("--kernel", image.kernel.clone().into());
        put("--initrd", initrd.into());
        put("--cpus", self.cpus.to_string().into());
        put("--memory", self.memory.clone().into());
        put("--transport", self.transport.clone().into());
        put("--rng", "on".into());
        for (flag, target) in self.consoles() {
            put(flag, target);
        }
        for disk in &self.disk {
            // Quoted, for a name may have commas.
            let mut path = OsString::from("path=\"");
            path.push(disk);
            path.push("\"");
            put("--disk", path);
        }
        words.push("--guest-status".into());
        match &self.share {
            Some(dir) => with_daemon(&programs.virtiofsd, dir, words),
            None => words,
        }
    }

    /// A person's shell is on the serial port, where the kernel's console is. A command has the virtio console to
    /// itself, so that what comes out is its output alone.
    fn consoles(&self) -> Vec<(&'static str, OsString)> {
        if self.command.is_empty() {
            let terminal = std::io::stdin().is_terminal();
            return vec![("--serial", if terminal { "tty" } else { "stdio" }.into())];
        }
        let log = host::target().join("guest").join("console.log");
        // One boot's console, not all of them; it may not be there.
        let _ = fs::remove_file(&log);
        let shown = if self.show_console { PathBuf::from("/dev/stderr") } else { log };
        let mut target = OsString::from("file=");
        target.push(shown);
        vec![("--serial", target), ("--console", "stdio".into())]
    }
}

/// The share's tag, and where the guest mounts it.
const TAG: &str = "share";
const PLACE: &str = "/mnt";

fn mount() -> guest::Mount {
    guest::Mount { kind: "virtiofs".to_owned(), source: TAG.to_owned(), place: PLACE.to_owned() }
}

/// The VMM's `words`, and a daemon for it that shares `dir`. The daemon ends with the VMM.
fn with_daemon(daemon: &Path, dir: &Path, words: Vec<OsString>) -> Vec<OsString> {
    let script = format!(
        r#"set -e; d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
"$1" --socket-path="$d/fs.sock" --shared-dir="$2" --xattr &
shift 2; set +e; "$@" --fs "tag={TAG},socket=$d/fs.sock""#
    );
    let mut all: Vec<OsString> = ["sh", "-c", &script, "share"].map(OsString::from).to_vec();
    all.extend([daemon.into(), dir.into()]);
    all.extend(words);
    all
}

/// A guest image on disk.
pub(crate) struct Image {
    /// The unpacked kernel, or the vmlinuz where only it can unpack itself.
    pub(crate) kernel: PathBuf,
    /// The base initrd.
    pub(crate) initrd: PathBuf,
}

/// The image of `source` below `dir`, built when there is none or what it is made of has changed.
pub(crate) fn image(source: &Source, programs: &Programs, dir: &Path) -> Result<Image> {
    let out = dir.join(&source.release);
    let spec = Spec {
        source: source.clone(),
        modules: Vec::new(),
        with_modules: true,
        init: programs.init.clone(),
        busybox: None,
        command: guest::Command::default(),
        compression: Compression::default(),
    };
    let manifest = match guest::current(&spec, &out) {
        Some(manifest) => manifest,
        None => build_image(&spec, &out)?,
    };
    Ok(Image { kernel: out.join(manifest.kernel), initrd: out.join("initrd") })
}

fn build_image(spec: &Spec, out: &Path) -> Result<Manifest> {
    host::need(&[("busybox", "busybox-static")])?;
    eprintln!("xtask: building the guest image of {}", spec.source.release);
    let cache = Cache::open(&host::target().join("cache")).doing("opening the kernel cache")?;
    guest::build(spec, &cache, out, |_| {})
        .map_err(|error| Error::new(format!("building the guest image failed: {}", guest::sentence(&error))))
}
