//! The other `virtiofsd`, of crates.io, which our device must work with and our daemon be as good as.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Doing, Result};
use crate::{build, host};

const VERSION: &str = "1.14.0";

/// Builds it, once for each version; the program. It is installed nowhere but below `target`.
pub(crate) fn virtiofsd() -> Result<PathBuf> {
    let home = host::target().join("peer").join(VERSION);
    let program = home.join("bin/virtiofsd");
    if program.exists() {
        return Ok(program);
    }
    let headers = [("/usr/include/cap-ng.h", "libcap-ng-dev"), ("/usr/include/seccomp.h", "libseccomp-dev")];
    host::need(&[("cc", "gcc"), headers[0], headers[1]])?;
    eprintln!("xtask: building virtiofsd {VERSION}, which takes a minute the first time");
    let objects = home.join("build");
    host::run(install(&home).env("CARGO_TARGET_DIR", &objects))?;
    std::fs::remove_dir_all(&objects).doing(format_args!("removing {}", objects.display()))?;
    Ok(program)
}

/// As its authors have locked it. What makes their program small and fast takes three minutes, and is not tested here.
fn install(home: &std::path::Path) -> Command {
    let mut cargo = build::cargo();
    cargo.args(["install", "--quiet", "--locked", "--root"]).arg(home);
    cargo.arg("--version").arg(format!("={VERSION}")).arg("virtiofsd");
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    cargo
}
