//! This machine: Debian packages, and whether its KVM can run a Linux guest.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::build;
use crate::error::{Doing, Error, Result};

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    // The manifest's own folder is tests/xtask.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Where everything that can be made again is kept.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Runs a command to its end; its failure is ours.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().doing(format_args!("starting {:?}", command.get_program()))?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("{command:?} ended with {status}"))) }
}

/// A command's standard output; its failure is ours.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stderr(Stdio::inherit())
        .output()
        .doing(format_args!("starting {:?}", command.get_program()))?;
    if !out.status.success() {
        return Err(Error::new(format!("{command:?} ended with {}", out.status)));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A command that needs root, through sudo where we are not root.
pub(crate) fn as_root(program: &str) -> Command {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|uid| uid.trim() == "0");
    if is_root {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(program);
    sudo
}

/// Installs those of `wanted` (program, or a file's whole path; package) that are missing, and says so.
pub(crate) fn need(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !installed(program)).map(|(_, p)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {}", missing.join(" "));
    update()?;
    let mut apt = as_root("apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing);
    run(apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()))
}

/// Fetches the package lists, once a process.
pub(crate) fn update() -> Result<()> {
    static DONE: std::sync::Once = std::sync::Once::new();
    let mut done = Ok(());
    DONE.call_once(|| {
        done = run(as_root("apt-get").args(["update", "-qq"]).stdin(Stdio::null()).stdout(Stdio::null()));
    });
    done
}

fn installed(program: &str) -> bool {
    // A whole path is itself in every place.
    let places = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    places.iter().any(|place| Path::new(place).join(program).exists())
}

/// Whether this machine's KVM runs a Linux guest, found by running code in one; if not, why.
pub(crate) fn runs_guests() -> Result<std::result::Result<(), String>> {
    let probe = build::example("probe")?;
    let out = Command::new(&probe).output().doing(format_args!("starting {}", probe.display()))?;
    let why = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    Ok(if out.status.success() { Ok(()) } else { Err(why) })
}
