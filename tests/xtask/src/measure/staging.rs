//! What is measured, and what a closed bed needs for it.

use std::path::{Path, PathBuf};

use benches::{Guest, Plan, Subject};

use crate::bed::{Clock, Load};
use crate::error::{Doing, Result};
use crate::kernels::{self, Flavour};
use crate::{build, host};

/// What to measure.
pub(super) struct Wanted {
    pub(super) rounds: u32,
    pub(super) clock: Clock,
    /// Present where more than time is wanted; whether the reasons too.
    pub(super) explain: Option<bool>,
    pub(super) short: bool,
    pub(super) only: Option<String>,
    pub(super) against: Option<PathBuf>,
    pub(super) with: Vec<String>,
    pub(super) cmdline: Option<String>,
}

/// Our VMM with the kernel that QEMU boots too.
pub(crate) const ELF: &str = "kiwi";
/// The same kernel as Debian ships it.
pub(super) const LZ4: &str = "kiwi, lz4 vmlinuz";
/// A kernel packed with xz, as ELF and as Debian ships it.
pub(super) const GENERIC: &str = "kiwi, generic";
pub(super) const XZ: &str = "kiwi, generic xz vmlinuz";
/// The same with the devices that every sandbox has, their drivers not loaded.
pub(super) const SANDBOX: &str = "kiwi, net and vsock";
const SANDBOX_WORDS: [&str; 4] = ["--net", "tap=tap0,mac=52:54:00:00:00:01,vhost=on", "--vsock", "3"];
/// What another binary of ours is called.
const OTHER: &str = "kiwi, other";

/// Guest memory of every subject.
const MIB: u32 = 256;

/// Seconds that no boot takes. Ten of the instruction clock's, 10 G instructions, are a minute or two of a person's,
/// less than the bed may be silent; the longest boot, which unpacks a kernel first, takes six.
const DEADLINE_INSTRUCTIONS: u64 = 10;
const DEADLINE_WALL: u64 = 120;

/// Places in the bed. What is unpacked or copied there lies in memory, like all else.
const VMM: &str = "/vmm";
const OTHER_VMM: &str = "/vmm-other";
const INITRD: &str = "/initrd.cpio";
const QEMU: &str = "/qemu";
const FIRMWARE: &str = "/firmware";
/// How QEMU is started there.
pub(crate) const QEMU_WORDS: [&str; 3] = [QEMU, "-L", FIRMWARE];

/// What QEMU's two machines load into the guest.
const FIRMWARE_FILES: [&str; 5] =
    ["bios-256k.bin", "bios-microvm.bin", "kvmvapic.bin", "linuxboot_dma.bin", "pvh.bin"];
const FIRMWARE_PLACES: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// The cache goes to the bed's own memory, as it goes to a host's disk. The tap is there before, as a pod's is.
const JOB: &str =
    "/bin/busybox tunctl -t tap0 >/dev/null && KIWI_CACHE=/tmp/cache exec /stopwatch /plan.json";
/// Our own boot report follows, whose milliseconds are millions of instructions.
const EXPLAINED: &str = "/bin/busybox tunctl -t tap0 >/dev/null; export KIWI_CACHE=/tmp/cache; /stopwatch /plan.json && /vmm --kernel /tmp/cloud.vmlinux \
     --initrd /initrd.cpio --memory 256M --report text </dev/null 2>&1";

/// A load that measures.
pub(super) fn load(wanted: &Wanted) -> Result<Load> {
    let mut load = Load::new(if wanted.explain == Some(true) { EXPLAINED } else { JOB });
    load.copy(&build::programs()?.vmm, VMM, 0o755)?;
    load.copy(&build::of_benches("stopwatch")?, "/stopwatch", 0o755)?;
    load.file(INITRD, 0o644, guest::mark_initrd().doing("making the initrd")?);
    qemu(&mut load)?;
    let cmdline = match &wanted.cmdline {
        Some(line) => line.clone(),
        None => default_cmdline()?,
    };
    let mut plan = Plan {
        subjects: Vec::new(),
        rounds: wanted.rounds,
        mib: MIB,
        deadline: match wanted.clock {
            Clock::Instructions => DEADLINE_INSTRUCTIONS,
            Clock::Wall => DEADLINE_WALL,
        },
        count: wanted.explain.is_some(),
        sparse: Vec::new(),
    };
    let guest = |kernel: &str| Guest {
        kernel: kernel.into(),
        initrd: INITRD.into(),
        cmdline: cmdline.clone(),
        mib: MIB,
    };
    let (cloud, lz4) = kernel(&mut load, &mut plan, Flavour::Cloud61, "cloud")?;
    plan.subjects.push(Subject::kiwi(ELF, Path::new(VMM), &guest(&cloud)));
    let mut sandbox = Subject::kiwi(SANDBOX, Path::new(VMM), &guest(&cloud));
    sandbox.words.extend(SANDBOX_WORDS.map(str::to_owned));
    plan.subjects.push(sandbox);
    let words: Vec<String> = QEMU_WORDS.map(str::to_owned).to_vec();
    plan.subjects.push(Subject::microvm(&words, &guest("/cloud/vmlinux")));
    plan.subjects.push(Subject::q35(&words, &guest("/cloud/vmlinux")));
    if let Some(other) = &wanted.against {
        load.copy(other, OTHER_VMM, 0o755)?;
        plan.subjects.push(Subject::kiwi(OTHER, Path::new(OTHER_VMM), &guest(&cloud)));
    }
    for more in &wanted.with {
        let mut subject = Subject::kiwi(&format!("kiwi {more}"), Path::new(VMM), &guest(&cloud));
        subject.words.extend(more.split_whitespace().map(str::to_owned));
        plan.subjects.push(subject);
    }
    if !wanted.short {
        let (generic, xz) = kernel(&mut load, &mut plan, Flavour::Generic61, "generic")?;
        for (name, kernel) in [(LZ4, &lz4), (GENERIC, &generic), (XZ, &xz)] {
            plan.subjects.push(Subject::kiwi(name, Path::new(VMM), &guest(kernel)));
        }
    }
    let only = wanted.only.as_deref().unwrap_or_default();
    plan.subjects.retain(|subject| subject.name.contains(only));
    load.file("/plan.json", 0o644, serde_json::to_vec(&plan).doing("writing the plan")?);
    Ok(load)
}

/// Adds a kernel in both forms; the paths of the ELF and of the vmlinuz.
///
/// The stopwatch makes a copy of the ELF with holes, as the kernel cache and a guest image have them: an archive
/// can't carry holes. QEMU has the copy without, for it would fill the holes of the other by reading them: memory
/// is this bed's only file system, and there reading a hole makes a page.
fn kernel(load: &mut Load, plan: &mut Plan, flavour: Flavour, dir: &str) -> Result<(String, String)> {
    let source = kernels::debian(flavour)?;
    let vmlinux = kernels::unpacked(&source)?;
    load.copy(&vmlinux, &format!("/{dir}/vmlinux"), 0o644)?;
    load.copy(&source.kernel, &format!("/{dir}/vmlinuz"), 0o644)?;
    let sparse = format!("/tmp/{dir}.vmlinux");
    plan.sparse.push((format!("/{dir}/vmlinux").into(), sparse.clone().into()));
    Ok((sparse, format!("/{dir}/vmlinuz")))
}

/// Adds QEMU with its libraries and firmware.
pub(crate) fn qemu(load: &mut Load) -> Result<()> {
    load.program(Path::new("/usr/bin/qemu-system-x86_64"), QEMU)?;
    for name in FIRMWARE_FILES {
        let found = FIRMWARE_PLACES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
        let from =
            found.ok_or_else(|| crate::error::Error::new(format!("QEMU's {name} is not installed")))?;
        load.copy(&from, &format!("{FIRMWARE}/{name}"), 0o644)?;
    }
    Ok(())
}

/// The line our VMM boots with when nobody says otherwise.
pub(crate) fn default_cmdline() -> Result<String> {
    let path = host::root().join("vmm/src/boot/default.cmdline");
    let line = std::fs::read_to_string(&path).doing(format_args!("reading {}", path.display()))?;
    Ok(line.trim().to_owned())
}
