//! Integration tests of Kiwi VMM and the harness they use: a real `vmm`, a real kernel, a real command.
//!
//! ```no_run
//! let outcome = tests::TestVm::boot().cpus(4).command(&["nproc"]).run();
//! outcome.assert_status(0);
//! assert_eq!(outcome.output.trim(), "4");
//! ```
//! `cargo xtask test` builds what is needed and says where it is in variables: `KIWI_VMM` and `KIWI_VIRTIOFSD`, the
//! binaries, `KIWI_OTHER_VIRTIOFSD`, another's daemon, `KIWI_ASSETS`, a folder with a guest image a kernel, and
//! `KIWI_EXAMPLES`, the folder of the vmm crate's examples. A test that finds none fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a harness says what it expects by failing

pub mod files;
pub mod net;
pub mod peer;
mod share;
mod terminal;
mod threads;
mod vm;

pub use share::{Server, Share, status_field};
pub use terminal::Terminal;
pub use threads::{Thread, threads};
pub use vm::{DEADLINE, Outcome, Running, TestVm, until, wait};

use std::path::PathBuf;

/// The `vmm` under test.
pub fn vmm() -> PathBuf {
    asset("KIWI_VMM")
}

/// The `kiwi-virtiofsd` under test.
pub fn virtiofsd() -> PathBuf {
    asset("KIWI_VIRTIOFSD")
}

/// The `virtiofsd` of crates.io, to compare with.
pub fn other_virtiofsd() -> PathBuf {
    asset("KIWI_OTHER_VIRTIOFSD")
}

/// The folder of guest images, one for each of `6.1-cloud`, `6.1-generic` and `6.12-cloud`.
pub fn assets() -> PathBuf {
    asset("KIWI_ASSETS")
}

/// The built example `name` of the vmm crate.
pub fn example(name: &str) -> PathBuf {
    asset("KIWI_EXAMPLES").join(name)
}

/// A program of this package's own, for a guest to run.
pub fn program(name: &str) -> PathBuf {
    // target/TARGET/PROFILE/deps/test-HASH, and beside deps the package's programs.
    let me = std::env::current_exe().expect("this program's path");
    let path = me.ancestors().nth(2).expect("a folder").join(name);
    assert!(path.exists(), "{} is not built", path.display());
    path
}

fn asset(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path =
        path.unwrap_or_else(|| panic!("{variable} is not set: run these tests with `cargo xtask test`"));
    assert!(path.exists(), "{variable} names {}, which is not there", path.display());
    path
}

/// A folder of this test's own, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}
