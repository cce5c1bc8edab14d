//! The other `virtiofsd`, of crates.io, which our device must work with and our daemon be as good as.

use std::path::PathBuf;

use crate::error::{Doing, Result};
use crate::{build, host};

const VERSION: &str = "1.14.0";

/// Builds it, once for each version, for tests; the program. It is installed nowhere but below `target`. What makes the
/// authors' program small and fast takes three minutes, and is not tested.
pub(crate) fn virtiofsd() -> Result<PathBuf> {
    let quick = [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("OPT_LEVEL", "1")];
    built(VERSION, &quick.map(|(what, value)| (format!("CARGO_PROFILE_RELEASE_{what}"), value)))
}

/// The same as its authors build it, to be compared with.
pub(crate) fn virtiofsd_at_its_best() -> Result<PathBuf> {
    built(&format!("{VERSION}-best"), &[])
}

fn built(folder: &str, profile: &[(String, &str)]) -> Result<PathBuf> {
    let home = host::target().join("peer").join(folder);
    let program = home.join("bin/virtiofsd");
    if program.exists() {
        return Ok(program);
    }
    let headers = [("/usr/include/cap-ng.h", "libcap-ng-dev"), ("/usr/include/seccomp.h", "libseccomp-dev")];
    host::need(&[("cc", "gcc"), headers[0], headers[1]])?;
    eprintln!("xtask: building virtiofsd {VERSION}, which takes some minutes the first time");
    let objects = home.join("build");
    let mut cargo = build::cargo();
    // As its authors have locked it.
    cargo.args(["install", "--quiet", "--locked", "--root"]).arg(&home);
    cargo.arg("--version").arg(format!("={VERSION}")).arg("virtiofsd");
    host::run(
        cargo.envs(profile.iter().map(|(name, value)| (name, value))).env("CARGO_TARGET_DIR", &objects),
    )?;
    std::fs::remove_dir_all(&objects).doing(format_args!("removing {}", objects.display()))?;
    Ok(program)
}
