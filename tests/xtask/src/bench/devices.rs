//! `cargo xtask bench devices`: ours and those of QEMU's q35, side by side in one closed bed.
//!
//! 1. The bed is loaded with both VMMs, a kernel, an initrd that starts the program `load`, and the benchmark.
//! 2. Its job makes a tap for each machine; the benchmark starts both and gives them work in turn.
//! 3. Its lines become a table of costs and ratios. Work that takes ours longer than QEMU, beyond the noise, is missed,
//!    which is this command's failure.

use benches::{Compared, Times};

use crate::bed::{Bed, Clock, Load};
use crate::error::{Doing, Error, Result};
use crate::kernels::{self, Flavour};
use crate::{boot, build, host, measure};

/// The guest's process 1. Ours uses ports, which no process of a guest can do under QEMU in the bed (docs/testbed.md). Its
/// address is made of its Ethernet address, so that one initrd does for all.
const INIT: &str = r#"#!/bin/busybox sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in virtio_pci virtio_net virtio_blk vmw_vsock_virtio_transport; do modprobe $m || poweroff -f; done
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
export TMPDIR=/tmp CARGO_TARGET_DIR=/tmp/criterion RUST_BACKTRACE=0
exec /devices --bench"#;

/// Runs the benchmark and holds it against QEMU.
pub(super) fn run(only: Option<&str>, wall: bool) -> Result<u8> {
    let clock = if wall { Clock::Wall } else { Clock::Instructions };
    let mut compared = Vec::new();
    Bed::prepare()?.run_closed(load(only)?, clock, super::LIMIT, |line| {
        match serde_json::from_str::<Compared>(line) {
            Ok(line) => compared.push(line),
            Err(_) => eprintln!("bed: {line}"),
        }
    })?;
    if compared.is_empty() {
        return Err(Error::new("the benchmark measured nothing"));
    }
    let text = table(&compared);
    println!("{text}");
    let file = host::target().join("bench-devices.txt");
    std::fs::write(&file, &text).doing(format_args!("writing {}", file.display()))?;
    Ok(u8::from(text.contains(MISSED)))
}

fn load(only: Option<&str>) -> Result<Load> {
    let (programs, source) = (build::programs()?, kernels::debian(Flavour::Cloud61)?);
    let only = only.map(|only| format!(" '{}'", only.replace('\'', r"'\''"))).unwrap_or_default();
    let qemu = measure::QEMU_WORDS.join(" ");
    let cmdline = measure::default_cmdline()?;
    let mut load = Load::new(&format!(
        "export KIWI_VMM=/vmm KIWI_KERNEL=/vmlinux KIWI_INITRD=/initrd KIWI_QEMU='{qemu}' KIWI_CMDLINE='{cmdline}'\n{JOB}{only}"
    ));
    load.copy(&programs.vmm, "/vmm", 0o755)?;
    load.copy(&build::bench("devices")?, "/devices", 0o755)?;
    load.copy(&kernels::unpacked(&source)?, "/vmlinux", 0o644)?;
    let image = boot::image(&source, &programs, &host::target().join("guest"))?;
    let base = std::fs::read(&image.initrd).doing(format_args!("reading {}", image.initrd.display()))?;
    load.file("/initrd", 0o644, initrd(base)?);
    measure::qemu(&mut load)?;
    Ok(load)
}

/// An image's initrd with the program behind, and an init of our own in place of the image's.
fn initrd(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    let program = build::of_benches("load")?;
    let program = std::fs::read(&program).doing(format_args!("reading {}", program.display()))?;
    let mut archive = guest::Archive::new();
    archive.file("bin/load", 0o755, program);
    archive.file("init", 0o755, INIT);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.to_bytes().doing("packing the program")?);
    Ok(bytes)
}

const MISSED: &str = "MISSED";

/// A line for each kind of work. The ratio is of speeds: above 1 ours is the faster.
fn table(compared: &[Compared]) -> String {
    let mut text = "| | piece | ours, instructions a piece | QEMU's | ratio | spread | |\n|---|---|---|---|---|---|---|\n".to_owned();
    for one in compared {
        let [ours, others @ ..] = one.times.as_slice() else { continue };
        others.iter().for_each(|other| text += &row(one, ours, other));
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_takes_ours_longer_is_missed() {
        let times = |subject: &str, n: u64| Times { subject: subject.to_owned(), nanoseconds: vec![n; 10] };
        let of = |ours: u64| Compared {
            work: "echo".to_owned(),
            piece: "byte".to_owned(),
            pieces: 10,
            times: vec![times("kiwi", ours), times("QEMU q35", 1000)],
        };
        assert!(table(&[of(500)]).contains("| echo | byte | 50 | 100 | 2.000 | 0.0% | held |"));
        assert!(table(&[of(500), of(1100)]).contains(MISSED));
    }
}
