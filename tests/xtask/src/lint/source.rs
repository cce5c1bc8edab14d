//! Rust files, parsed once, with what of them is test code.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::LineColumn;
use syn::spanned::Spanned;

use super::Finding;
use super::tree::Tree;

/// A parsed file.
pub(super) struct Source {
    /// Its path below the root.
    pub(super) path: PathBuf,
    /// Its text, line by line.
    pub(super) lines: Vec<String>,
    /// What it says.
    pub(super) file: syn::File,
    /// Whether all of it is test code.
    pub(super) is_test: bool,
}

impl Source {
    /// Every Rust file, and a finding for each that does not parse.
    pub(super) fn parse_all(tree: &Tree) -> (Vec<Self>, Vec<Finding>) {
        let (mut sources, mut found) = (Vec::new(), Vec::new());
        for (path, text) in tree.ending("rs") {
            match Self::parse(path, text) {
                Ok(mut source) => {
                    source.is_test = is_integration_test(tree, path);
                    sources.push(source);
                }
                Err(e) => found.push(Finding::new(path, e.span().start().line, format!("no Rust: {e}"))),
            }
        }
        let tests: BTreeSet<PathBuf> = sources.iter().flat_map(Self::test_modules).collect();
        for source in &mut sources {
            source.is_test |= tests.iter().any(|module| is_of_module(&source.path, module));
        }
        (sources, found)
    }

    /// One file.
    pub(super) fn parse(path: &Path, text: &str) -> syn::Result<Self> {
        let file = syn::parse_file(text)?;
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Self { path: path.to_owned(), lines, file, is_test: false })
    }

    /// The modules in files of their own that this file declares for tests only, as paths without an ending.
    fn test_modules(&self) -> Vec<PathBuf> {
        let is_root = |stem: &std::ffi::OsStr| ["mod", "lib", "main"].iter().any(|root| stem == *root);
        let folder = match self.path.file_stem() {
            Some(stem) if is_root(stem) => self.path.with_file_name(""),
            _ => self.path.with_extension(""),
        };
        let declared = self.file.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) if module.content.is_none() && is_for_tests(&module.attrs) => Some(module),
            _ => None,
        });
        declared.map(|module| folder.join(module.ident.to_string())).collect()
    }

    /// How many lines are no test's.
    pub(super) fn production_lines(&self) -> usize {
        if self.is_test {
            return 0;
        }
        let tests = self.file.items.iter().filter(|item| is_for_tests(attributes(item)));
        self.lines.len()
            - tests.map(|item| lines_between(item.span().start(), item.span().end())).sum::<usize>()
    }
}

fn lines_between(start: LineColumn, end: LineColumn) -> usize {
    (end.line + 1).saturating_sub(start.line)
}

/// `X/tests/…` beside `X/Cargo.toml`.
fn is_integration_test(tree: &Tree, path: &Path) -> bool {
    let tests = path.ancestors().filter(|folder| folder.ends_with("tests"));
    tests
        .filter_map(Path::parent)
        .any(|root| root != Path::new("") && tree.text(&root.join("Cargo.toml")).is_some())
}

fn is_of_module(path: &Path, module: &Path) -> bool {
    path.starts_with(module) || path.with_extension("") == module
}

/// Whether attributes hold `#[cfg(test)]`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let is_test = |meta: &syn::MetaList| meta.path.is_ident("cfg") && meta.tokens.to_string() == "test";
    attributes.iter().any(|a| matches!(&a.meta, syn::Meta::List(meta) if is_test(meta)))
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn production(tree: &Tree, path: &str) -> usize {
        let (sources, found) = Source::parse_all(tree);
        assert_eq!(found, []);
        sources.iter().find(|source| source.path == Path::new(path)).expect("parsed").production_lines()
    }

    #[test]
    fn lines_of_test_items_do_not_count() {
        let text = "//! Words.\nfn f() {}\n\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        assert_eq!(production(&Tree::from([("a/src/x.rs", text)]), "a/src/x.rs"), 3);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_does_not_count_at_all() {
        let tree = Tree::from([
            ("a/src/lib.rs", "#[cfg(test)]\nmod manual;\nmod x;\n"),
            ("a/src/manual.rs", "fn f() {}\n"),
            ("a/src/x.rs", "#[cfg(test)]\nmod tests;\n"),
            ("a/src/x/tests.rs", "mod deep;\n"),
            ("a/src/x/tests/deep.rs", "fn f() {}\n"),
        ]);
        for test in ["a/src/manual.rs", "a/src/x/tests.rs", "a/src/x/tests/deep.rs"] {
            assert_eq!(production(&tree, test), 0, "{test}");
        }
        assert_eq!(production(&tree, "a/src/lib.rs"), 1);
    }

    #[test]
    fn integration_tests_are_tests_and_the_room_of_tests_is_not() {
        let tree = Tree::from([
            ("Cargo.toml", ""),
            ("tests/Cargo.toml", ""),
            ("tests/src/lib.rs", "fn f() {}\n"),
            ("tests/tests/boot.rs", "fn f() {}\n"),
        ]);
        assert_eq!(production(&tree, "tests/tests/boot.rs"), 0);
        assert_eq!(production(&tree, "tests/src/lib.rs"), 1);
    }

    #[test]
    fn what_is_no_rust_is_said_with_its_line() {
        let (_, found) = Source::parse_all(&Tree::from([("a/src/x.rs", "fn f() {}\nfn {\n")]));
        assert_eq!((found.len(), found[0].line), (1, 2));
    }
}
