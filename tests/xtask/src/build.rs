//! Building our own programs.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Doing, Error, Result};
use crate::host;

/// The target everything is built for; `.cargo/config.toml` names it too.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The cargo that runs us.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(host::root());
    cargo
}

/// Programs as users get them.
#[derive(Debug)]
pub(crate) struct Programs {
    /// The VMM.
    pub(crate) vmm: PathBuf,
    /// The daemon that shares directories.
    pub(crate) virtiofsd: PathBuf,
    /// The guest's pid 1.
    pub(crate) init: PathBuf,
    /// The builder of guest images.
    pub(crate) image: PathBuf,
}

/// Builds the VMM, its daemon, the guest's init and the builder of guest images for release.
pub(crate) fn programs() -> Result<Programs> {
    let dir = release();
    if !dir.join("vmm").exists() {
        eprintln!("xtask: building our programs, which takes some minutes the first time");
    }
    // One form of the command for all, or features are resolved anew and everything is built twice.
    host::run(cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "vmm",
        "--package",
        "guest-init",
        "--package",
        "guest",
        "--package",
        "virtio-fs",
    ]))?;
    Ok(Programs {
        vmm: dir.join("vmm"),
        virtiofsd: dir.join("kiwi-virtiofsd"),
        init: dir.join("guest-init"),
        image: dir.join("guest-image"),
    })
}

fn release() -> PathBuf {
    host::target().join(TARGET).join("release")
}

/// Builds an example of the vmm crate.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    host::run(cargo().args(["build", "--quiet", "--release", "--package", "vmm", "--example", name]))?;
    Ok(release().join("examples").join(name))
}

/// Builds a program of the benches crate: `stopwatch`, which boots VMMs against the clock, or `load`, which works in
/// guests.
pub(crate) fn of_benches(name: &str) -> Result<PathBuf> {
    host::run(cargo().args(["build", "--quiet", "--release", "--package", "benches", "--bin", name]))?;
    Ok(release().join(name))
}

/// Builds the integration tests and gives their executables.
pub(crate) fn integration_tests() -> Result<Vec<PathBuf>> {
    executables(&["test", "--package", "tests", "--tests"], "test")
}

/// Builds them and gives the executable of the file `name`.
pub(crate) fn integration_test(name: &str) -> Result<PathBuf> {
    let all = executables(&["test", "--package", "tests", "--test", name], "test")?;
    all.into_iter().next().ok_or_else(|| Error::new(format!("there is no test {name}")))
}

/// Builds the criterion benchmark `name`.
pub(crate) fn bench(name: &str) -> Result<PathBuf> {
    let all = executables(&["bench", "--package", "benches", "--bench", name], "bench")?;
    all.into_iter().next().ok_or_else(|| Error::new(format!("there is no benchmark {name}")))
}

/// Builds what `words` name and gives each executable of `kind`.
fn executables(words: &[&str], kind: &str) -> Result<Vec<PathBuf>> {
    let json = host::output(cargo().args(words).args(["--quiet", "--no-run", "--message-format=json"]))?;
    let mut found = Vec::new();
    for line in json.lines() {
        let message: serde_json::Value = serde_json::from_str(line).doing("reading cargo's messages")?;
        let is_wanted = message["target"]["kind"][0] == kind;
        if let (true, Some(path)) = (is_wanted, message["executable"].as_str()) {
            found.push(PathBuf::from(path));
        }
    }
    if found.is_empty() {
        return Err(Error::new(format!("cargo {words:?} built nothing, which cannot be right")));
    }
    Ok(found)
}
