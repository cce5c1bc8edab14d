//! `cargo xtask fuzz`: fuzz targets, built and run.
//!
//! A target is libFuzzer's main program around one function of tests/fuzz/fuzz_targets; the compiler marks every
//! branch for it. The flags are those of cargo-fuzz, which is not needed, and the compiler is the project's own.
//!
//! 1. All targets are built, in a workspace and a target folder of their own: their flags concern every dependency.
//! 2. Each begins with what tests/fuzz/seeds has for it and with what it found before (tests/fuzz/corpus, not kept in
//!    git), and runs for so many seconds.
//! 3. What ends a target, or takes it too long, is kept in tests/fuzz/artifacts and fails the run.
//!
//! Targets called `vhost_…` need a host with vhost and taps: they run in the test bed where guests do.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::bed::{self, Job};
use crate::build::{self, TARGET};
use crate::error::{Doing, Error, Result};
use crate::host;

/// Run fuzz targets.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// With AddressSanitizer: slower, and sees wrong uses of memory in unsafe code
    #[arg(long)]
    asan: bool,
    /// Which targets; all without a name
    targets: Vec<String>,
}

/// Coverage as libFuzzer reads it, and checks of overflows and assertions in optimized code.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-sanitizer-coverage-stack-depth \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cdebug-assertions -Ccodegen-units=1 --cfg fuzzing";

/// Seconds for each target in the tests.
const SHORT: u32 = 5;
/// Seconds that one input may take, where a machine with other things to do is not taken for a finding.
const SLOW: u32 = 60;
/// What the bed may take beside the run itself.
const BED: Duration = Duration::from_secs(300);

impl Fuzz {
    pub(crate) fn run(self) -> Result<u8> {
        let all = targets()?;
        if let Some(unknown) = self.targets.iter().find(|name| !all.contains(name)) {
            return Err(Error::new(format!(
                "there is no fuzz target {unknown}; there are {}",
                all.join(", ")
            )));
        }
        let chosen = if self.targets.is_empty() { all } else { self.targets };
        let programs = build(self.asan)?;
        let mut failed = 0;
        for target in &chosen {
            failed += u8::from(!run(&programs, target, self.seconds)?);
        }
        Ok(u8::from(failed > 0))
    }
}

/// A short run of every target.
pub(crate) fn short() -> Result<()> {
    match (Fuzz { seconds: SHORT, asan: false, targets: Vec::new() }).run()? {
        0 => Ok(()),
        _ => Err(Error::new("a fuzz target found something")),
    }
}

fn home() -> PathBuf {
    host::root().join("tests/fuzz")
}

/// The targets' names: their files'.
fn targets() -> Result<Vec<String>> {
    let dir = home().join("fuzz_targets");
    let entries = fs::read_dir(&dir).doing(format_args!("listing {}", dir.display()))?;
    let name = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = entries.filter_map(|entry| name(entry.ok()?.path())).collect();
    names.sort();
    Ok(names)
}

/// Builds all targets; gives the folder they are in.
fn build(asan: bool) -> Result<PathBuf> {
    host::need(&[("g++", "g++")])?;
    let target = host::target().join(if asan { "fuzz-asan" } else { "fuzz" });
    let mut cargo = build::cargo();
    cargo.args(["build", "--quiet", "--release", "--bins", "--manifest-path"]).arg(home().join("Cargo.toml"));
    cargo.args(["--target", TARGET]).arg("--target-dir").arg(&target);
    let mut flags = FLAGS.to_owned();
    if asan {
        // The sanitizer is there, but not yet for stable compilers to ask for.
        flags += " -Zsanitizer=address";
        cargo.env("RUSTC_BOOTSTRAP", "1");
    }
    host::run(cargo.env("RUSTFLAGS", flags))?;
    Ok(target.join(TARGET).join("release"))
}

/// Runs one target; whether it came to its end without a finding.
fn run(programs: &Path, target: &str, seconds: u32) -> Result<bool> {
    let folder = |kind: &str| -> Result<PathBuf> {
        let path = home().join(kind).join(target);
        fs::create_dir_all(&path).doing(format_args!("making {}", path.display()))?;
        Ok(path)
    };
    let (corpus, seeds, artifacts) = (folder("corpus")?, folder("seeds")?, folder("artifacts")?);
    let in_bed = target.starts_with("vhost_");
    let mut words: Vec<OsString> = vec![programs.join(target).into()];
    let mut arg = |arg: String| words.push(arg.into());
    arg(format!("-max_total_time={seconds}"));
    arg(format!("-timeout={SLOW}"));
    arg("-print_final_stats=1".to_owned());
    arg(format!("-artifact_prefix={}/", artifacts.display()));
    let dictionary = home().join("dictionaries").join(format!("{target}.dict"));
    if dictionary.exists() {
        arg(format!("-dict={}", dictionary.display()));
    }
    words.extend([corpus.into(), seeds.into()]);
    let (status, said) = if in_bed { in_the_bed(words, seconds)? } else { here(&words)? };
    let figures = Figures::read(&said);
    if status == "0" && figures.runs > 0 {
        println!("{target}: {} inputs, {} branches, nothing found", figures.runs, figures.branches);
        return Ok(true);
    }
    let last: Vec<&str> = said.lines().rev().take(40).collect();
    last.iter().rev().for_each(|line| println!("  {line}"));
    println!("{target}: FOUND something, or did not run (status {status}); see {}", artifacts.display());
    Ok(false)
}

/// Runs `words`: the exit status, and what was said on standard error.
fn here(words: &[OsString]) -> Result<(String, String)> {
    let (program, rest) = words.split_first().ok_or_else(|| Error::new("there is nothing to fuzz"))?;
    let mut fuzzer = Command::new(program);
    let out = fuzzer.args(rest).stdin(Stdio::null()).output().doing("starting a fuzz target")?;
    let status = out.status.code().map_or_else(|| out.status.to_string(), |code| code.to_string());
    Ok((status, String::from_utf8_lossy(&out.stderr).into_owned()))
}

/// The same where guests run. Inputs that were found stay here, for the bed has this machine's files.
fn in_the_bed(words: Vec<OsString>, seconds: u32) -> Result<(String, String)> {
    let said = host::target().join("fuzz").join("said");
    let script = ["sh", "-c", r#"said=$1; shift; exec "$@" 2> "$said""#, "fuzz"].map(OsString::from);
    let words: Vec<_> = script.into_iter().chain([said.clone().into()]).chain(words).collect();
    let limit = Duration::from_secs(seconds.into()) + BED;
    let status = bed::run_anywhere(&Job::new(words).unattended(), limit)?;
    Ok((status.to_string(), fs::read_to_string(&said).doing("reading what a fuzz target said")?))
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    runs: u64,
    branches: u64,
}

impl Figures {
    fn read(said: &str) -> Self {
        let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let branches = said.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
        let number = |text: Option<&str>| text.and_then(|t| t.trim().parse().ok()).unwrap_or(0);
        Self { runs: number(runs), branches: number(branches) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_libfuzzer_says() {
        let said = "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#262144\tpulse  cov: 27 ft: 40 corp: 9/20b\n\
                    Done 300000 runs in 2 second(s)\nstat::number_of_executed_units: 300000\n";
        assert_eq!(Figures::read(said), Figures { runs: 300_000, branches: 27 });
        assert_eq!(Figures::read("Killed\n"), Figures::default());
    }

    #[test]
    fn every_target_has_seeds() {
        for target in targets().expect("the targets' folder") {
            let seeds = home().join("seeds").join(&target);
            assert!(fs::read_dir(&seeds).is_ok_and(|mut dir| dir.next().is_some()), "{target} has none");
        }
    }
}
