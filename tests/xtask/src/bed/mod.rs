//! The test bed: a Linux host under QEMU's emulation, whose `/dev/kvm`, `/dev/vhost-net` and `/dev/vhost-vsock` are
//! the real kernel's. docs/testbed.md tells how and why.
//!
//! 1. A kernel with its modules and a one-page init become the L1's initrd, once.
//! 2. The L1 mounts this machine's root over 9p and runs the command there, in the same folder.
//! 3. The command's input and output are the L1's second serial port, byte for byte; its console is a log.
//! 4. The exit status comes back as a file. Without that file the bed itself has died or hangs, which is an error
//!    ([`watch`]) and never a test's result.
//!
//! [`closed`] is the same host with everything in its memory, for measurements.

mod closed;
mod watch;

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use guest::{Archive, ModuleTree, Source};

use crate::error::{Doing, Error, Result};
use crate::host;
use crate::kernels::{self, Flavour};
pub(crate) use closed::{Clock, Load};

/// Run a command in the test bed.
#[derive(clap::Args)]
pub(crate) struct Testbed {
    /// Seconds the command may take
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl Testbed {
    pub(crate) fn run(self) -> Result<u8> {
        Bed::prepare()?.run(&Job::new(self.command), Duration::from_secs(self.timeout))
    }
}

/// What the L1 needs: network, file sharing, nested virtualization, devices for tests of disks.
const MODULES: [&str; 15] = [
    "virtio_pci",
    "9p",
    "9pnet_virtio",
    "kvm_amd",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "loop",
    "dm_mod",
    // Files with attributes of users', which a tmpfs has not before Linux 6.6.
    "crc32c_generic",
    "ext4",
    // A pod's network: a pair of devices, and packets redirected between one of them and a tap.
    "veth",
    "sch_ingress",
    "cls_u32",
    "act_mirred",
];

/// Translation of addresses, which takes a tenth of a boot to load: loaded when the first nft runs ([`MODPROBE`]).
const LATE: [&str; 2] = ["nft_chain_nat", "nft_masq"];

/// The L1's own command line. One emulated CPU: with two, a guest hangs now and then.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off";

/// The emulator, and the variable that names another one: see docs/testbed.md.
const QEMU: &str = "qemu-system-x86_64";
const EMULATOR: &str = "KIWI_BED_QEMU";

/// Set in every process of the bed.
pub(crate) const INSIDE: &str = "KIWI_TESTBED";

/// A bed that is ready to be started.
pub(crate) struct Bed {
    kernel: PathBuf,
    initrd: PathBuf,
    home: PathBuf,
    source: Source,
}

/// What to run in it.
pub(crate) struct Job {
    words: Vec<OsString>,
    env: Vec<(String, OsString)>,
    unattended: bool,
}

impl Job {
    pub(crate) fn new(words: Vec<OsString>) -> Self {
        Self { words, env: Vec::new(), unattended: false }
    }

    /// Nobody types anything.
    pub(crate) fn unattended(mut self) -> Self {
        self.unattended = true;
        self
    }

    /// Adds a variable to the command's environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

impl Bed {
    /// Installs, downloads and builds what is missing.
    pub(crate) fn prepare() -> Result<Self> {
        host::need(&[(QEMU, "qemu-system-x86"), ("busybox", "busybox-static")])?;
        let home = host::target().join("testbed");
        fs::create_dir_all(&home).doing(format_args!("making {}", home.display()))?;
        let source = kernels::debian(Flavour::Generic61)?;
        let kernel = kernels::unpacked(&source)?;
        let bed = Self { kernel, initrd: home.join("initrd"), home, source };
        write_if_new(&bed.initrd, &initrd_of(&bed.tree()?)?)?;
        Ok(bed)
    }

    /// Runs `job`; its exit status. A bed that dies or hangs is an error, never a status.
    pub(crate) fn run(&self, job: &Job, timeout: Duration) -> Result<u8> {
        let run = self.fresh("run")?;
        let done = self.run_in(&run, job, timeout);
        if done.is_ok() {
            let _ = fs::remove_dir_all(&run);
        }
        done
    }

    fn run_in(&self, run: &Path, job: &Job, timeout: Duration) -> Result<u8> {
        let (script, status, console) = (run.join("job"), run.join("status"), run.join("console.log"));
        fs::write(&script, script_of(job, &status)?).doing(format_args!("writing {}", script.display()))?;
        let interactive = !job.unattended && std::io::stdin().is_terminal();
        let mut qemu = self.qemu(&script, &console, interactive);
        if job.unattended || std::env::var_os("CI").is_some() {
            qemu.stdin(Stdio::null());
        }
        let mut child = qemu.spawn().doing("starting qemu-system-x86_64")?;
        let ended = watch::wait(&mut child, timeout, || watch::length(&console));
        match fs::read_to_string(&status).ok().and_then(|text| text.trim().parse().ok()) {
            Some(status) => Ok(status),
            None => Err(watch::failure(ended, &console)),
        }
    }

    fn qemu(&self, script: &Path, console: &Path, interactive: bool) -> Command {
        let mut qemu = self.emulator(&self.initrd, console, "9G");
        qemu.arg("-append")
            .arg(format!("{CMDLINE} kiwi.job={} kiwi.tty={}", script.display(), u8::from(interactive)))
            .args(["-chardev", "stdio,id=job,signal=off", "-serial", "chardev:job"])
            .args(["-virtfs", "local,path=/,mount_tag=host,security_model=none,multidevs=remap"]);
        qemu
    }

    /// The emulated machine, without a command line or a second serial port yet.
    fn emulator(&self, initrd: &Path, console: &Path, memory: &str) -> Command {
        let mut qemu = Command::new(std::env::var_os(EMULATOR).unwrap_or_else(|| QEMU.into()));
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm", "-M", "q35", "-smp", "1"])
            .args(["-m", memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-serial")
            .arg(format!("file:{}", console.display()));
        qemu
    }

    /// An empty folder for one run.
    fn fresh(&self, what: &str) -> Result<PathBuf> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let (process, n) = (std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        let run = self.home.join(format!("{what}-{process}-{n}"));
        let _ = fs::remove_dir_all(&run);
        fs::create_dir_all(&run).doing(format_args!("making {}", run.display()))?;
        Ok(run)
    }

    fn tree(&self) -> Result<ModuleTree> {
        ModuleTree::open(&self.source.modules, &self.source.release).doing("reading the bed's modules")
    }
}

/// The shell script that the L1 runs in this machine's root.
fn script_of(job: &Job, status: &Path) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let quote = |word: &[u8]| -> Vec<u8> {
        let mut out = vec![b'\''];
        word.iter().for_each(|b| if *b == b'\'' { out.extend(b"'\\''") } else { out.push(*b) });
        out.push(b'\'');
        out
    };
    let cwd = std::env::current_dir().doing("finding the current folder")?;
    let mut script = b"cd ".to_vec();
    script.extend(quote(cwd.as_os_str().as_bytes()));
    // Sockets and locks belong on a file system of the bed's own, not on 9p.
    script.extend(format!("\nexport {INSIDE}=1 TMPDIR=/run/tmp\n").bytes());
    let inherited =
        ["PATH", "HOME", "TERM"].iter().filter_map(|n| Some(((*n).to_owned(), std::env::var_os(n)?)));
    for (name, value) in inherited.chain(job.env.iter().cloned()) {
        script.extend(format!("export {name}=").bytes());
        script.extend(quote(value.as_bytes()));
        script.push(b'\n');
    }
    for word in &job.words {
        script.extend(quote(word.as_bytes()));
        script.push(b' ');
    }
    // Written under another name first: a status half written must not be read.
    let (part, status) = (status.with_extension("part"), status);
    script.extend(format!("\necho $? > '{}' && mv '{0}' '{}'\n", part.display(), status.display()).bytes());
    Ok(script)
}

const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /mnt
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
$b mkdir -p /dev/pts /dev/shm; $b mount -t devpts devpts /dev/pts; $b mount -t tmpfs shm /dev/shm
while read m; do $b insmod /lib/modules/$m; done < /lib/modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 host /mnt || { echo "no root over 9p"; $b poweroff -f; }
for d in proc sys dev dev/pts dev/shm; do $b mount --bind /$d /mnt/$d; done
$b mount -t tmpfs run /mnt/run; $b mkdir -m 1777 /mnt/run/tmp
$b mount -t debugfs debugfs /sys/kernel/debug; $b mount -t tracefs tracefs /sys/kernel/tracing
for word in $($b cat /proc/cmdline); do case $word in kiwi.job=*) job=${word#*=};; kiwi.tty=*) tty=${word#*=};; esac; done
$b ip link set lo up
(n=0; while $b sleep 2; do n=$((n+1)); echo BEAT $n; done) &
[ "$tty" = 1 ] && mode="sane" || mode="raw -echo"
$b stty -F /dev/ttyS1 115200 $mode
cd /mnt; $b mount --move /mnt /
$b setsid $b chroot . /bin/sh -c "exec /bin/sh '$job' <>/dev/ttyS1 >&0 2>&0"
$b stty -F /dev/ttyS1 raw
echo job done
$b poweroff -f
"#;

/// What the kernel runs for a module that it lacks, in its own root, which is the initrd's. nft's first word to it is of
/// netlink (16), to netfilter (12).
const MODPROBE: &str = r#"#!/bin/busybox sh
case "$*" in *net-pf-16-proto-12)
    while read m; do /bin/busybox insmod /lib/modules/$m; done < /lib/modules/late;;
esac
"#;

fn initrd_of(tree: &ModuleTree) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.file("init", 0o755, INIT.replace("BEAT", watch::BEAT));
    archive.file("bin/busybox", 0o755, busybox()?);
    archive.char_device("dev/console", (5, 1));
    add_modules(&mut archive, tree, &MODULES, "order")?;
    add_modules(&mut archive, tree, &LATE, "late")?;
    archive.file("sbin/modprobe", 0o755, MODPROBE);
    archive.to_bytes().doing("writing the bed's initrd")
}

fn busybox() -> Result<Vec<u8>> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    found.ok_or_else(|| Error::new("busybox is not installed"))
}

/// Adds `wanted` with all they need, and in the file `list` the order in which to insert them.
fn add_modules(archive: &mut Archive, tree: &ModuleTree, wanted: &[&str], list: &str) -> Result<()> {
    let mut order = String::new();
    for module in tree.closure(wanted.iter().copied()).doing("finding the bed's modules")? {
        order += &format!("{}.ko\n", module.name);
        archive.file(&format!("lib/modules/{}.ko", module.name), 0o644, module.content);
    }
    archive.file(&format!("lib/modules/{list}"), 0o644, order);
    Ok(())
}

/// Writes a file only where its content changes.
pub(crate) fn write_if_new(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).doing(format_args!("writing {}", path.display()))
}

impl Job {
    /// Runs the job on this machine; its exit status.
    fn here(&self) -> Result<u8> {
        let (program, rest) =
            self.words.split_first().ok_or_else(|| Error::new("there is nothing to run"))?;
        let mut command = Command::new(program);
        command.args(rest).envs(self.env.iter().map(|(name, value)| (name, value)));
        let status = command.status().doing(format_args!("starting {}", program.display()))?;
        let by_signal = || Error::new(format!("{} ended with {status}", program.display()));
        status.code().and_then(|code| u8::try_from(code).ok()).ok_or_else(by_signal)
    }
}

/// Runs `job` on this machine if its KVM runs guests, in the bed otherwise.
pub(crate) fn run_anywhere(job: &Job, limit: Duration) -> Result<u8> {
    match bed_unless_here()? {
        Some(bed) => bed.run(job, limit),
        None => job.here(),
    }
}

/// Runs `jobs`, which share their work out among themselves, each in a bed of its own and all at once; on a machine
/// whose KVM runs guests one after the other, so that they do not share its network.
pub(crate) fn run_side_by_side(jobs: &[Job], limit: Duration) -> Result<()> {
    let Some(bed) = bed_unless_here()? else {
        return jobs.iter().try_for_each(|job| job.here().map(drop));
    };
    std::thread::scope(|scope| {
        let beds: Vec<_> = jobs.iter().map(|job| scope.spawn(|| bed.run(job, limit))).collect();
        let ends =
            beds.into_iter().map(|bed| bed.join().map_err(|_| Error::new("a bed's thread panicked"))?);
        // All are waited for; the first that failed is told.
        ends.collect::<Vec<_>>().into_iter().try_for_each(|end| end.map(drop))
    })
}

fn bed_unless_here() -> Result<Option<Bed>> {
    if std::env::var_os(INSIDE).is_none()
        && let Err(why) = host::runs_guests()?
    {
        println!("{why}; using the test bed");
        return Ok(Some(Bed::prepare()?));
    }
    Ok(None)
}
