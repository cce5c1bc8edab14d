//! `cargo xtask test`: everything that must hold, in the order in which it fails fastest.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bed::{self, Job};
use crate::build;
use crate::error::{Doing, Error, Result};
use crate::kernels::{self, Flavour};
use crate::{boot, host, image, lint, network, peer};

/// Run all of the project's checks and tests.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Only the integration tests, and of those only the ones whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// How long all integration tests together may take in the bed.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// Beds that run them at the same time: an emulated processor keeps one of this machine's two busy.
const SIDE_BY_SIDE: usize = 2;
/// How long one of them may take: several boots, on a machine with other things to do; twice what is a hang to one of
/// their waits, which says more of it.
const EACH: Duration = Duration::from_secs(600);

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
        // What tests of disks and of shared directories make images with, and look at them; what tests of networks
        // lay them with.
        host::need(&[("e2fsck", "e2fsprogs"), ("dmsetup", "dmsetup"), ("losetup", "mount")])?;
        host::need(&network::NEEDS)?;
        let other = peer::virtiofsd()?;
        let executables = build::integration_tests()?;
        let home = host::target().join("testbed").join("suite");
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(home.join("claims")).doing(format_args!("making {}", home.display()))?;
        let reports: Vec<PathBuf> = (0..SIDE_BY_SIDE).map(|n| home.join(n.to_string())).collect();
        let jobs: Result<Vec<_>> = reports
            .iter()
            .map(|report| {
                let job = with_assets(self.job(&executables, report, &home))?;
                Ok(job.env("KIWI_OTHER_VIRTIOFSD", &other).unattended())
            })
            .collect();
        bed::run_side_by_side(&jobs?, LIMIT)?;
        let mut text = String::new();
        for report in &reports {
            text += &std::fs::read_to_string(report).doing("reading the tests' results")?;
        }
        let claimed = std::fs::read_dir(home.join("claims")).doing("counting the tests")?.count();
        outcomes(&text, claimed)
    }

    /// Every test in a process of its own with a deadline of its own, so that one that hangs is named and ends alone.
    /// Jobs share the tests out by making a folder for each they take, which only one of them can.
    fn job(&self, executables: &[PathBuf], report: &Path, home: &Path) -> Job {
        let filter = self.only.clone().unwrap_or_default();
        let script = r#"report=$1 home=$2 filter=$3 limit=$4; shift 4
for t in "$@"; do
  "$t" --list --format terse $filter | sed -n 's/: test$//p' >"$report.list"
  while read -r name <&3; do
    mkdir "$home/claims/$(basename "$t").$name" 2>/dev/null || continue
    echo "want $name" >>"$report.part"
    timeout -k 10 "$limit" "$t" --exact "$name" --test-threads=1 >"$report.one" 2>&1; status=$?
    [ $status = 124 ] && { echo; echo "$name hung: it took longer than $limit s and was ended"; } >>"$report.one"
    echo "end $status" >>"$report.one"
    tee -a "$report.part" <"$report.one"
  done 3<"$report.list"
done
touch "$report.part"
mv "$report.part" "$report""#;
        let mut words: Vec<OsString> = ["sh", "-c", script, "tests"].map(OsString::from).to_vec();
        words.extend([report, home].map(OsString::from));
        words.extend([filter, EACH.as_secs().to_string()].map(OsString::from));
        words.extend(executables.iter().map(OsString::from));
        Job::new(words)
    }
}

/// `job`, told where the programs and images are that tests use. All are made first.
pub(crate) fn with_assets(job: Job) -> Result<Job> {
    let programs = build::programs()?;
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
    let job = job.env("KIWI_VMM", programs.vmm).env("KIWI_ASSETS", assets);
    let job = job.env("KIWI_VIRTIOFSD", programs.virtiofsd);
    Ok(job.env("KIWI_EXAMPLES", minimal.with_file_name("")).env("RUST_BACKTRACE", "0"))
}

fn step(failed: &mut Vec<&'static str>, name: &'static str, work: impl FnOnce() -> Result<()>) {
    println!("==> {name}");
    let begun = Instant::now();
    if let Err(error) = work() {
        println!("{error}");
        failed.push(name);
    }
    println!("    {} s", begun.elapsed().as_secs());
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

/// Reads the job's lines and libtest's between them. A test that was wanted and did not say "ok" has failed, and so has
/// one whose process ended badly all the same; one that is ignored is for another command and counts nowhere.
fn outcomes(text: &str, claimed: usize) -> Result<Vec<Outcome>> {
    let wanted = text.lines().filter(|line| line.starts_with("want ")).count();
    if wanted != claimed {
        return Err(Error::new(format!("{claimed} integration tests were begun, and {wanted} reported")));
    }
    let mut found: Vec<Outcome> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("want ") {
            found.push(Outcome { name: name.to_owned(), ok: false });
        } else if let Some((_, result)) = line.strip_prefix("test ").and_then(|l| l.rsplit_once(" ... ")) {
            match found.last_mut() {
                Some(_) if result.starts_with("ignored") => _ = found.pop(),
                Some(last) => last.ok = result == "ok",
                None => {}
            }
        } else if let Some(status) = line.strip_prefix("end ")
            && status != "0"
            && let Some(last) = found.last_mut()
        {
            last.ok = false;
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
    fn a_process_that_ends_badly_has_failed_though_its_test_said_ok() {
        let all = outcomes("want a\ntest a ... ok\nend 0\nwant b\ntest b ... ok\nend 139\n", 2).expect("ran");
        assert_eq!(all.iter().filter(|t| !t.ok).map(|t| t.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn results_are_told_from_other_lines() {
        let text = "want boots\r\nrunning 1 test\r\ntest boots ... ok\r\nend 0\r\nwant resets\r\n\
                    test resets ... FAILED\r\nend 101\r\n";
        let all = outcomes(text, 2).expect("ran");
        assert_eq!(all.iter().map(|t| t.ok).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn a_test_that_hung_or_never_said_anything_has_failed() {
        let all =
            outcomes("want a\ntest a ... \na hung: it took long\nend 124\nwant b\nend 0\n", 2).expect("ran");
        assert!(all.len() == 2 && all.iter().all(|t| !t.ok));
    }

    #[test]
    fn an_ignored_test_is_neither_passed_nor_failed() {
        let all = outcomes("want a\ntest a ... ok\nend 0\nwant b\ntest b ... ignored, long\nend 0\n", 2)
            .expect("ran");
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn nothing_run_is_an_error() {
        assert!(outcomes("end 0", 0).is_err());
        assert!(outcomes("want a\ntest a ... ok\nend 0", 2).is_err(), "one was begun and forgotten");
    }
}
