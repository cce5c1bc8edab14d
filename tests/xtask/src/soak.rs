//! `cargo xtask soak`: boots in a row, without one failure and without anything left behind.

use std::ffi::OsString;
use std::time::Duration;

use crate::bed::{self, Job};
use crate::error::{Doing, Result};
use crate::kernels::{self, Flavour};
use crate::{build, host};

/// Boot many times in a row, in one process and by the binary, and look for leaks.
#[derive(clap::Args)]
pub(crate) struct Soak {
    /// Boots of each kind
    #[arg(long, default_value_t = 200)]
    count: u32,
}

/// How long one boot may take on average, before the whole is taken for hung.
const EACH: Duration = Duration::from_secs(30);

impl Soak {
    pub(crate) fn run(self) -> Result<u8> {
        let programs = build::programs()?;
        let soak = build::example("soak")?;
        let kernel = kernels::unpacked(&kernels::debian(Flavour::Cloud61)?)?;
        let initrd = host::target().join("mark-initrd");
        bed::write_if_new(&initrd, &guest::mark_initrd().doing("making the initrd")?)?;
        let mut words: Vec<OsString> = vec![soak.into(), kernel.into(), initrd.into()];
        words.extend([OsString::from(self.count.to_string()), programs.vmm.into()]);
        bed::run_anywhere(&Job::new(words), EACH * 2 * self.count.max(1))
    }
}
