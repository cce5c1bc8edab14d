//! `cargo xtask bench devices`: ours and those of QEMU's q35, by turns in one closed bed.
//!
//! 1. The bed is loaded with both VMMs, a kernel, an initrd that starts the program `load`, and the benchmark.
//! 2. Its job makes a tap for each VMM; the benchmark starts one machine after the other and gives each all work.
//! 3. Its lines become a table of costs and ratios. Work that takes ours longer than QEMU, beyond the noise, is missed,
//!    which is this command's failure.

use benches::{Beside, Compared, DeviceLine, Times};

use crate::bed::{Bed, Clock, Load};
use crate::error::{Doing, Error, Result};
use crate::kernels::{self, Flavour};
use crate::{boot, build, host, measure};

/// The guest's process 1. Ours uses ports, which no process of a guest can do under QEMU in the bed (docs/testbed.md). Its
/// address is made of its Ethernet address, so that one initrd does for all.
const INIT: &str = r#"#!/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtio_net virtio_blk vmw_vsock_virtio_transport virtio_balloon virtio_rng virtio_console; do modprobe $m || poweroff -f; done
until [ -e /sys/class/net/eth0 ] && [ -e /dev/vda ]; do usleep 10000; done
n=$(cut -d : -f 6 /sys/class/net/eth0/address)
ip address add 10.0.$n.2/24 dev eth0 && ip link set eth0 up && load
poweroff -f
"#;

/// Both taps are made alike and have the same addresses but for the machine's number.
const JOB: &str = r#"b=/bin/busybox
for n in 1 2; do
  $b tunctl -t tap$n && $b ip address add 10.0.$n.1/24 dev tap$n && $b ip link set tap$n up || exit 1
done
exec /devices --bench"#;

/// What a benchmark of machines that live is about.
pub(super) struct Setting {
    pub(super) name: &'static str,
    /// The guest's process 1, and the bed's job, behind its variables.
    pub(super) init: &'static str,
    pub(super) job: &'static str,
    /// What the bed needs besides.
    pub(super) more: fn(&mut Load) -> Result<()>,
}

pub(super) const DEVICES: Setting = Setting { name: "devices", init: INIT, job: JOB, more: |_| Ok(()) };

/// Runs the benchmark and holds it against QEMU.
pub(super) fn run(what: &Setting, only: Option<&str>, wall: bool) -> Result<u8> {
    let clock = if wall { Clock::Wall } else { Clock::Instructions };
    let mut lines = Vec::new();
    Bed::prepare()?.run_closed(
        load(what, only)?,
        clock,
        super::LIMIT,
        |line| match serde_json::from_str::<DeviceLine>(line) {
            Ok(line) => lines.push(line),
            Err(_) => eprintln!("bed: {line}"),
        },
    )?;
    if lines.is_empty() {
        return Err(Error::new("the benchmark measured nothing"));
    }
    let text = table(&lines);
    println!("{text}");
    let file = host::target().join(format!("bench-{}.txt", what.name));
    std::fs::write(&file, &text).doing(format_args!("writing {}", file.display()))?;
    Ok(u8::from(text.contains(MISSED)))
}

fn load(what: &Setting, only: Option<&str>) -> Result<Load> {
    let (programs, source) = (build::programs()?, kernels::debian(Flavour::Cloud61)?);
    let only = only.unwrap_or_default().replace('\'', r"'\''");
    let qemu = measure::QEMU_WORDS.join(" ");
    let cmdline = measure::default_cmdline()?;
    let mut load = Load::new(&format!(
        "export KIWI_VMM=/vmm KIWI_KERNEL=/vmlinux KIWI_INITRD=/initrd KIWI_QEMU='{qemu}' KIWI_CMDLINE='{cmdline}'\n\
         export KIWI_WHAT={} KIWI_ONLY='{only}' TMPDIR=/tmp CARGO_TARGET_DIR=/tmp/criterion RUST_BACKTRACE=0\n{}",
        what.name, what.job
    ));
    load.copy(&programs.vmm, "/vmm", 0o755)?;
    load.copy(&build::bench("devices")?, "/devices", 0o755)?;
    load.copy(&kernels::unpacked(&source)?, "/vmlinux", 0o644)?;
    let image = boot::image(&source, &programs, &host::target().join("guest"))?;
    let base = std::fs::read(&image.initrd).doing(format_args!("reading {}", image.initrd.display()))?;
    load.file("/initrd", 0o644, initrd(base, what.init)?);
    measure::qemu(&mut load)?;
    (what.more)(&mut load)?;
    Ok(load)
}

/// An image's initrd with the program behind, and an init of our own in place of the image's.
fn initrd(mut bytes: Vec<u8>, init: &str) -> Result<Vec<u8>> {
    let program = build::of_benches("load")?;
    let program = std::fs::read(&program).doing(format_args!("reading {}", program.display()))?;
    let mut archive = guest::Archive::new();
    archive.file("bin/load", 0o755, program);
    archive.file("init", 0o755, init);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.to_bytes().doing("packing the program")?);
    Ok(bytes)
}

const MISSED: &str = "MISSED";

/// What our VMM may have beside its guest's memory with all devices on, in KiB.
const RESIDENT: u64 = 5 * 1024;

/// A line for each kind of work. The ratio is of speeds: above 1 ours is the faster. Behind it, memory.
fn table(lines: &[DeviceLine]) -> String {
    let mut text = "| | piece | ours, instructions a piece | QEMU's | ratio | spread | |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for line in lines {
        match line {
            DeviceLine::Compared(one) => text += &rows(one),
            DeviceLine::Memory { subject, beside } => text += &memory(subject, *beside),
        }
    }
    text
}

fn rows(one: &Compared) -> String {
    let [ours, others @ ..] = one.times.as_slice() else { return String::new() };
    others.iter().map(|other| row(one, ours, other)).collect()
}

fn row(one: &Compared, ours: &Times, other: &Times) -> String {
    let each = |times: &Times| times.median() / one.pieces.max(1);
    let (work, piece) = (&one.work, &one.piece);
    let verdict = if ours.holds_against(other) { "held" } else { MISSED };
    let spread = 100.0 * ours.spread().max(other.spread());
    let ratio = ours.against(other);
    format!(
        "| {work} | {piece} | {} | {} | {ratio:.3} | {spread:.1}% | {verdict} |\n",
        each(ours),
        each(other)
    )
}

fn memory(subject: &str, beside: Beside) -> String {
    let Beside { resident, anonymous } = beside;
    let verdict = match subject {
        measure::ELF if resident > RESIDENT => format!(": {MISSED} (at most {RESIDENT})"),
        measure::ELF => format!(": held (at most {RESIDENT})"),
        _ => String::new(),
    };
    format!(
        "{subject}, memory beside the guest's after all work: {resident} KiB ({anonymous} anonymous){verdict}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(ours: u64) -> DeviceLine {
        let times = |subject: &str, n: u64| Times { subject: subject.to_owned(), nanoseconds: vec![n; 10] };
        DeviceLine::Compared(Compared {
            work: "echo".to_owned(),
            piece: "byte".to_owned(),
            pieces: 10,
            times: vec![times(measure::ELF, ours), times("QEMU q35", 1000)],
        })
    }

    #[test]
    fn work_that_takes_ours_longer_is_missed() {
        assert!(table(&[work(500)]).contains("| echo | byte | 50 | 100 | 2.000 | 0.0% | held |"));
        assert!(table(&[work(500), work(1100)]).contains(MISSED));
    }

    #[test]
    fn memory_is_held_against_the_limit_for_ours_alone() {
        let memory = |subject: &str| {
            let beside = Beside { resident: RESIDENT + 1, anonymous: 1 };
            table(&[DeviceLine::Memory { subject: subject.to_owned(), beside }])
        };
        assert!(memory(measure::ELF).contains(MISSED) && !memory("QEMU q35").contains(MISSED));
    }
}
