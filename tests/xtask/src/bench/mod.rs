//! `cargo xtask bench`: comparisons with QEMU under criterion, of boots where guests run, of devices and of shared
//! directories in the closed bed.

mod devices;
mod files;

use std::ffi::OsString;
use std::time::Duration;

use crate::bed::{self, Job};
use crate::error::{Doing, Result};
use crate::kernels::{self, Flavour};
use crate::{build, host, measure};

/// Compare ours with QEMU's, with criterion.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// What to compare
    #[arg(value_enum, default_value = "boot")]
    what: What,
    /// Only the work whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Devices and files on this machine's clock instead of the instruction clock
    #[arg(long)]
    wall: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Boots, on the wall's clock
    Boot,
    /// Network, vsock and disk, on the instruction clock; fails where ours is the slower
    Devices,
    /// A shared directory, on the instruction clock; fails where ours is the slower
    Files,
}

/// How long some forty boots may take, or all work of all devices or of files.
const LIMIT: Duration = Duration::from_secs(3600);

impl Bench {
    pub(crate) fn run(self) -> Result<u8> {
        match self.what {
            What::Boot => boots(self.only),
            What::Devices => devices::run(&devices::DEVICES, self.only.as_deref(), self.wall),
            What::Files => devices::run(&files::FILES, self.only.as_deref(), self.wall),
        }
    }
}

fn boots(only: Option<String>) -> Result<u8> {
    host::need(&[("qemu-system-x86_64", "qemu-system-x86")])?;
    let programs = build::programs()?;
    let bench = build::bench("boot")?;
    let kernel = kernels::unpacked(&kernels::debian(Flavour::Cloud61)?)?;
    let initrd = host::target().join("mark-initrd");
    bed::write_if_new(&initrd, &guest::mark_initrd().doing("making the initrd")?)?;
    let words: Vec<OsString> =
        [bench.into(), "--bench".into()].into_iter().chain(only.map(OsString::from)).collect();
    let job = Job::new(words)
        .env("KIWI_VMM", programs.vmm)
        .env("KIWI_KERNEL", kernel)
        .env("KIWI_INITRD", initrd)
        .env("KIWI_CMDLINE", measure::default_cmdline()?)
        .env("CARGO_TARGET_DIR", host::target());
    bed::run_anywhere(&job, LIMIT)
}
