//! `cargo xtask lint`: the rules that neither rustc nor clippy knows, checked on what git tracks.
//!
//! - [`arrows`]: which crate may use which (ARCHITECTURE.md, "Rooms and arrows");
//! - [`names`]: `unsafe`, `clap` and `anyhow` stay where they belong;
//! - [`sizes`]: files, functions, traits, structs and error enums stay readable;
//! - [`places`]: every path named in a document exists, and no file names a place of one machine.
//!
//! A finding is one line: where, what, and the limit it breaks.

mod arrows;
mod metadata;
mod names;
mod places;
mod sizes;
mod source;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host;
use metadata::Metadata;
use source::Source;
use tree::Tree;

/// Check the rules that the compiler does not know: arrows, sizes, unsafe code, paths
#[derive(clap::Args)]
pub(crate) struct Lint {}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: PathBuf,
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: impl Into<PathBuf>, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

impl Lint {
    pub(crate) fn run(self) -> Result<u8> {
        check()?;
        Ok(0)
    }
}

/// Prints every finding; an error if there is one.
pub(crate) fn check() -> Result<()> {
    let root = host::root();
    let findings = findings(&Tree::of(&root)?, &Metadata::of_workspace()?, &root);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(Error::new("the lint found one broken rule")),
        n => Err(Error::new(format!("the lint found {n} broken rules"))),
    }
}

fn findings(tree: &Tree, metadata: &Metadata, root: &Path) -> Vec<Finding> {
    let (sources, mut found) = Source::parse_all(tree);
    found.extend(arrows::check(metadata, tree));
    for source in &sources {
        found.extend(names::check(source, metadata));
        found.extend(sizes::check(source));
    }
    found.extend(places::check(tree, root));
    found.sort();
    found
}
