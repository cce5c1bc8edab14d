//! What cargo knows about the workspace, as far as the lint asks.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Doing, Result};
use crate::{build, host};

/// The answer of `cargo metadata --no-deps`.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    /// The workspace's crates.
    pub(super) packages: Vec<Package>,
    workspace_root: PathBuf,
}

/// A crate of the workspace.
#[derive(Debug, Deserialize)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// What its manifest asks for, of every kind.
    pub(super) dependencies: Vec<Dependency>,
    targets: Vec<Target>,
    manifest_path: PathBuf,
}

/// A line of a manifest.
#[derive(Debug, Deserialize)]
pub(super) struct Dependency {
    /// The crate's name.
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(super) fn of_workspace() -> Result<Self> {
        let json = host::output(build::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        serde_json::from_str(&json).doing("reading cargo's metadata")
    }

    /// A crate's folder below the root: its room.
    pub(super) fn room(&self, package: &Package) -> PathBuf {
        let folder = package.manifest_path.parent().unwrap_or(Path::new(""));
        folder.strip_prefix(&self.workspace_root).unwrap_or(folder).to_owned()
    }

    /// The crate of that name, if it is one of ours.
    pub(super) fn named(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// The crate that a file belongs to: the one in the deepest folder above it.
    pub(super) fn owner(&self, file: &Path) -> Option<&Package> {
        let above = self.packages.iter().filter(|package| file.starts_with(self.room(package)));
        above.max_by_key(|package| self.room(package).components().count())
    }
}

impl Package {
    /// Whether others can use it.
    pub(super) fn is_library(&self) -> bool {
        self.targets.iter().any(|target| target.kind.iter().any(|kind| kind == "lib"))
    }
}

/// A workspace in words: crates as (folder, name, target kind, dependencies).
#[cfg(test)]
pub(super) fn workspace(crates: &[(&str, &str, &str, &[&str])]) -> Metadata {
    let package = |(folder, name, kind, needs): &(&str, &str, &str, &[&str])| Package {
        name: (*name).to_owned(),
        dependencies: needs.iter().map(|name| Dependency { name: (*name).to_owned() }).collect(),
        targets: vec![Target { kind: vec![(*kind).to_owned()] }],
        manifest_path: Path::new("/w").join(folder).join("Cargo.toml"),
    };
    Metadata { packages: crates.iter().map(package).collect(), workspace_root: "/w".into() }
}
