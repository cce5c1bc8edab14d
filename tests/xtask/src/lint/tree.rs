//! The project's files: what git tracks, and what is new and not ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::host;

/// Files by their path below the root; those that are no text have none.
#[derive(Debug, Default)]
pub(super) struct Tree(BTreeMap<PathBuf, Option<String>>);

impl Tree {
    /// The working tree at `root`.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let names = host::output(&mut git)?;
        let files = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from);
        // A file that was removed but not yet committed is still tracked.
        let there = files.filter(|path| root.join(path).exists());
        Ok(Self(there.map(|path| (path.clone(), std::fs::read_to_string(root.join(path)).ok())).collect()))
    }

    /// Every text file.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.0.iter().filter_map(|(path, text)| Some((path.as_path(), text.as_deref()?)))
    }

    /// Every text file whose name ends in `.ending`.
    pub(super) fn ending<'a>(&'a self, ending: &'a str) -> impl Iterator<Item = (&'a Path, &'a str)> {
        self.texts().filter(move |(path, _)| path.extension().is_some_and(|e| e == ending))
    }

    /// A file's text.
    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        self.0.get(path)?.as_deref()
    }

    /// Whether there is such a file or folder.
    pub(super) fn has(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.0.keys().any(|file| file.starts_with(path))
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Tree {
    fn from(files: [(&str, &str); N]) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.into(), Some(text.to_owned()))).collect())
    }
}
