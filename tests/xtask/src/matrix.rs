//! `cargo xtask matrix`: every kernel, in both forms, over both transports, with few and many processors, with little
//! and much memory. `tests/tests/matrix.rs` has the cells; the suite runs a thinned selection of them.

use std::ffi::OsString;
use std::time::Duration;

use crate::bed::{self, Job};
use crate::error::Result;
use crate::{build, suite};

/// Boot every cell of the matrix of kernels, transports, processors and memory.
#[derive(clap::Args)]
pub(crate) struct Matrix {
    /// Only the cells whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// How long all cells together may take.
const LIMIT: Duration = Duration::from_secs(2 * 3600);

impl Matrix {
    pub(crate) fn run(self) -> Result<u8> {
        let test = build::integration_test("matrix")?;
        let mut words: Vec<OsString> = vec![test.into()];
        words.extend(["--ignored", "--exact", "every_cell_boots", "--nocapture"].map(OsString::from));
        let job = suite::with_assets(Job::new(words))?;
        bed::run_anywhere(&job.env("KIWI_CELLS", self.only.unwrap_or_default()), LIMIT)
    }
}
