//! `cargo xtask bench`: the criterion benchmark of boots, where guests run.

use std::ffi::OsString;
use std::time::Duration;

use crate::bed::{self, Job};
use crate::error::{Doing, Result};
use crate::kernels::{self, Flavour};
use crate::{build, host, measure};

/// Compare boots with QEMU's on the wall's clock, with criterion.
#[derive(clap::Args)]
pub(crate) struct Bench {}

/// How long some forty boots may take.
const LIMIT: Duration = Duration::from_secs(3600);

impl Bench {
    pub(crate) fn run(self) -> Result<u8> {
        host::need(&[("qemu-system-x86_64", "qemu-system-x86")])?;
        let programs = build::programs()?;
        let bench = build::boot_bench()?;
        let kernel = kernels::unpacked(&kernels::debian(Flavour::Cloud61)?)?;
        let initrd = host::target().join("mark-initrd");
        bed::write_if_new(&initrd, &guest::mark_initrd().doing("making the initrd")?)?;
        let words: Vec<OsString> = vec![bench.into(), "--bench".into()];
        let job = Job::new(words)
            .env("KIWI_VMM", programs.vmm)
            .env("KIWI_KERNEL", kernel)
            .env("KIWI_INITRD", initrd)
            .env("KIWI_CMDLINE", measure::default_cmdline()?)
            .env("CARGO_TARGET_DIR", host::target());
        bed::run_anywhere(&job, LIMIT)
    }
}
