//! Boots the subjects of a plan in turn and writes what each boot took, a line of JSON each.
//!
//! `stopwatch PLAN.json`. `cargo xtask measure` runs it in the test bed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use benches::{Line, Plan, Subject};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match std::env::args_os().nth(1).ok_or_else(|| "which plan?".into()).and_then(|p| run(Path::new(&p))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("stopwatch: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(path: &Path) -> Result<(), Failure> {
    let plan: Plan = serde_json::from_slice(&fs::read(path)?)?;
    for (from, to) in &plan.sparse {
        guest_kernel::write_sparse(&File::create_new(to)?, &fs::read(from)?)?;
    }
    let deadline = Duration::from_secs(plan.deadline);
    for round in 0..=plan.rounds {
        each(&plan.subjects, |subject| {
            Ok(Line::Timed { subject: subject.name.clone(), round, timed: benches::time(subject, deadline)? })
        })?;
    }
    if plan.count {
        each(&plan.subjects, |subject| {
            let counted = benches::count(subject, plan.mib, deadline)?;
            Ok(Line::Counted { subject: subject.name.clone(), counted })
        })?;
    }
    Ok(())
}

fn each(subjects: &[Subject], boot: impl Fn(&Subject) -> Result<Line, Failure>) -> Result<(), Failure> {
    for subject in subjects {
        let mut line = serde_json::to_vec(&boot(subject)?)?;
        line.push(b'\n');
        std::io::stdout().write_all(&line)?;
    }
    Ok(())
}
