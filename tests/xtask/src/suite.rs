//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::bed::{Bed, INSIDE, Job};
use crate::build;
use crate::error::{Doing, Error, Result};
use crate::kernels::{self, Flavour};
use crate::{boot, host, image, lint};

/// Run all of the project's checks and tests.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Only the integration tests, and of those only the ones whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// How long all integration tests together may take in the bed.
const LIMIT: Duration = Duration::from_secs(30 * 60);

impl Test {
    pub(crate) fn run(self) -> Result<u8> {
        let mut failed = Vec::new();
        if self.only.is_none() {
            step(&mut failed, "format", || cargo(&["fmt", "--all", "--check"]));
            step(&mut failed, "clippy", || {
                cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
            });
            step(&mut failed, "lint", lint::check);
            step(&mut failed, "unit tests", || {
                cargo(&["test", "--quiet", "--workspace", "--exclude", "tests"])
            });
            step(&mut failed, "the harness's own tests", || {
                cargo(&["test", "--quiet", "--package", "tests", "--lib"])
            });
            step(&mut failed, "one static binary", crate::binary::check);
            step(&mut failed, "fuzz targets", crate::fuzz::short);
            step(&mut failed, "documentation", documentation);
            step(&mut failed, "guest image", image::check);
        }
        let tests = self.integration()?;
        let passed = tests.iter().filter(|t| t.ok).count();
        let lost = tests.len() - passed + failed.len();
        for name in failed.iter().copied().chain(tests.iter().filter(|t| !t.ok).map(|t| t.name.as_str())) {
            println!("FAILED: {name}");
        }
        println!("{passed} passed, {lost} failed");
        Ok(u8::from(lost > 0))
    }

    fn integration(&self) -> Result<Vec<Outcome>> {
        println!("==> integration tests");
        let programs = build::programs()?;
        let executables = build::integration_tests()?;
        let minimal = build::example("minimal")?;
        let assets = host::target().join("guest");
        for flavour in Flavour::ALL {
            let source = kernels::debian(flavour)?;
            boot::image(&source, &programs, &assets)?;
            let link = assets.join(flavour.name());
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(&source.release, &link).doing("naming an image")?;
            let vmlinuz = assets.join(&source.release).join("vmlinuz");
            let _ = std::fs::remove_file(&vmlinuz);
            std::os::unix::fs::symlink(&source.kernel, &vmlinuz).doing("naming a kernel")?;
        }
        let report = host::target().join("testbed").join("results");
        std::fs::create_dir_all(host::target().join("testbed")).doing("making the bed's folder")?;
        let _ = std::fs::remove_file(&report);
        let job = self.job(&executables, &report);
        let job = job.env("KIWI_VMM", programs.vmm).env("KIWI_ASSETS", assets);
        let job = job.env("KIWI_VIRTIOFSD", programs.virtiofsd);
        let job = job.env("KIWI_EXAMPLES", minimal.with_file_name("")).env("RUST_BACKTRACE", "0");
        self.start(&job)?;
        outcomes(&std::fs::read_to_string(&report).doing("reading the tests' results")?)
    }

    fn start(&self, job: &Job) -> Result<()> {
        if std::env::var_os(INSIDE).is_none()
            && let Err(why) = host::runs_guests()?
        {
            println!("{why}; using the test bed");
            Bed::prepare()?.run(job, LIMIT)?;
            return Ok(());
        }
        job.here()
    }

    /// One shell line: every test executable in turn, what each says kept beside the results.
    fn job(&self, executables: &[PathBuf], report: &std::path::Path) -> Job {
        let filter = self.only.clone().unwrap_or_default();
        let script = r#"report=$1 filter=$2; shift 2
for t in "$@"; do "$t" --test-threads=1 $filter 2>&1; echo "end $?"; done | tee "$report.part"
mv "$report.part" "$report""#;
        let mut words: Vec<OsString> = ["sh", "-c", script, "tests"].map(OsString::from).to_vec();
        words.push(report.into());
        words.push(filter.into());
        words.extend(executables.iter().map(OsString::from));
        Job::new(words)
    }
}

fn step(failed: &mut Vec<&'static str>, name: &'static str, work: impl FnOnce() -> Result<()>) {
    println!("==> {name}");
    if let Err(error) = work() {
        println!("{error}");
        failed.push(name);
    }
}

fn cargo(words: &[&str]) -> Result<()> {
    host::run(build::cargo().args(words))
}

/// Every public item's page, without a dead link.
fn documentation() -> Result<()> {
    let mut doc = build::cargo();
    doc.args(["doc", "--quiet", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    host::run(&mut doc)
}

/// One test's result.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    name: String,
    ok: bool,
}

/// Reads libtest's lines. Every executable must have come to its end, and a status without failures of its own
/// is a failure too.
fn outcomes(text: &str) -> Result<Vec<Outcome>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
            found.push(Outcome { name: name.to_owned(), ok: result == "ok" });
        } else if let Some(status) = line.strip_prefix("end ")
            && status != "0"
            && found.iter().all(|t| t.ok)
        {
            found.push(Outcome { name: format!("a test executable (status {status})"), ok: false });
        }
    }
    if found.is_empty() {
        return Err(Error::new("no integration test ran"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crashed_executable_is_a_failure_though_no_test_of_it_failed() {
        let all = outcomes("test a ... ok\nend 0\ntest b ... ok\nend 139\n").expect("some ran");
        assert_eq!(all.iter().filter(|t| !t.ok).count(), 1);
    }

    #[test]
    fn results_are_told_from_other_lines() {
        let all = outcomes("running 2 tests\r\ntest boots ... ok\r\ntest resets ... FAILED\r\nend 101\r\n")
            .expect("ran");
        assert_eq!(all.len(), 2);
        assert!(!all[1].ok);
    }

    #[test]
    fn nothing_run_is_an_error() {
        assert!(outcomes("end 0").is_err());
    }
}
