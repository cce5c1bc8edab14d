//! `cargo xtask measure`: what a boot costs, ours and QEMU's, on the instruction clock and beside it on the wall's.
//!
//! 1. A closed bed is loaded with our VMM, QEMU, the kernels and a stopwatch (crate `benches`).
//! 2. The stopwatch boots all subjects in turn, round by round, then once each under the kernel's tracing.
//! 3. Its lines become a table, and the table is held against the targets: a missed one is this command's failure.

mod staging;
mod table;
mod targets;

use std::time::Duration;

use benches::Line;

use crate::bed::{Bed, Clock};
use crate::error::{Doing, Error, Result};
use crate::host;
pub(crate) use staging::{ELF, QEMU_WORDS, default_cmdline, qemu};
use table::Results;

/// Measure boots of our VMM and of QEMU in the test bed, on the instruction clock.
#[derive(clap::Args)]
pub(crate) struct Measure {
    /// Timed boots of each, after one that is discarded
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Timed boots of each on this machine's clock; 0 for none
    #[arg(long, default_value_t = 5)]
    wall_rounds: u32,
    /// Only the 6.1 cloud kernel as ELF
    #[arg(long)]
    short: bool,
    /// Only subjects whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Another vmm binary to compare with, on the same kernel
    #[arg(long)]
    against: Option<std::path::PathBuf>,
    /// More words for our VMM, as a subject of its own: --with '--rng on --transport mmio'
    #[arg(long, allow_hyphen_values = true)]
    with: Vec<String>,
    /// Another command line than the default, for all
    #[arg(long)]
    cmdline: Option<String>,
    /// Say what the exits are and where they come from
    #[arg(long)]
    explain: bool,
}

/// How long a bed may take for all its boots.
const LIMIT: Duration = Duration::from_secs(3600);

impl Measure {
    pub(crate) fn run(self) -> Result<u8> {
        let bed = Bed::prepare()?;
        let results = self.watch(&bed, Clock::Instructions, self.rounds, true)?;
        let mut text = results.costs();
        if self.explain {
            text += &results.explanation();
        }
        if self.wall_rounds > 0 {
            text += &self.watch(&bed, Clock::Wall, self.wall_rounds, false)?.walls();
        }
        let verdicts = targets::check(&results);
        verdicts.iter().for_each(|verdict| text += &format!("{verdict}\n"));
        println!("{text}");
        let file = host::target().join("measure.txt");
        std::fs::write(&file, &text).doing(format_args!("writing {}", file.display()))?;
        Ok(u8::from(verdicts.iter().any(|verdict| !verdict.held)))
    }

    fn watch(&self, bed: &Bed, clock: Clock, rounds: u32, count: bool) -> Result<Results> {
        let wanted = staging::Wanted {
            rounds,
            clock,
            explain: count.then_some(self.explain),
            short: self.short,
            only: self.only.clone(),
            against: self.against.clone(),
            with: self.with.clone(),
            cmdline: self.cmdline.clone(),
        };
        let mut lines = Vec::new();
        bed.run_closed(staging::load(&wanted)?, clock, LIMIT, |line| {
            match serde_json::from_str::<Line>(line) {
                Ok(line) => {
                    table::progress(&line, clock);
                    lines.push(line);
                }
                Err(_) => eprintln!("bed: {line}"),
            }
        })?;
        if lines.is_empty() {
            return Err(Error::new("the stopwatch measured nothing"));
        }
        Ok(Results::of(lines))
    }
}
