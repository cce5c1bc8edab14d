//! Places that text names: paths in documents exist, and nothing leads to one machine or one registry.

use std::path::{Component, Path, PathBuf};

use super::Finding;
use super::tree::Tree;

/// The document whose every path is checked.
const MAP: &str = "ARCHITECTURE.md";

/// Hosts that an address may lead to. Registries and mirrors differ from machine to machine: crates.io's own index
/// is at github.com.
const HOSTS: [&str; 9] = [
    "docs.kernel.org",
    "docs.oasis-open.org",
    "github.com",
    "keepachangelog.com",
    "opensource.org",
    "semver.org",
    "uefi.org",
    "www.apache.org",
    "www.w3.org",
];

/// Top-level folders that every Linux machine has.
const COMMON: [&str; 20] = [
    "bin", "boot", "dev", "etc", "home", "kiwi", "lib", "lib64", "media", "mnt", "opt", "proc", "root",
    "run", "sbin", "srv", "sys", "tmp", "usr", "var",
];

/// All places that are wrong, for a tree that lies at `root`.
pub(super) fn check(tree: &Tree, root: &Path) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        tree.ending("md").flat_map(|(path, text)| links(tree, path, text)).collect();
    if let Some(text) = tree.text(Path::new(MAP)) {
        found.extend(paths(tree, text));
    }
    let machine = machine_places(root);
    for (path, text) in tree.texts() {
        for (line, text) in (1..).zip(text.lines()) {
            found.extend(machine_place(&machine, text).map(|what| Finding::new(path, line, what)));
            found.extend(foreign_host(text).map(|what| Finding::new(path, line, what)));
            found.extend(pages(tree, text).map(|what| Finding::new(path, line, what)));
        }
    }
    found
}

/// Links of a document that lead to no file.
fn links<'a>(tree: &'a Tree, path: &'a Path, text: &'a str) -> impl Iterator<Item = Finding> + 'a {
    let folder = path.parent().unwrap_or(Path::new(""));
    (1..).zip(text.lines()).flat_map(move |(line, text)| {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let files = targets.filter(|to| !to.contains(':')).filter_map(|to| to.split('#').next());
        let missing = files.filter(|to| !tree.has(&joined(folder, to)));
        missing.map(move |to| Finding::new(path, line, format!("a link to {to}, which does not exist")))
    })
}

/// Pages of the manual that are named anywhere, in a comment too, and do not exist.
fn pages<'a>(tree: &'a Tree, line: &'a str) -> impl Iterator<Item = String> + 'a {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && !"./_-".contains(c));
    let words = words.map(|word| word.trim_end_matches('.'));
    let pages = words.filter(|word| word.starts_with("docs/") && word.ends_with(".md"));
    pages.filter(|page| !tree.has(Path::new(page))).map(|page| format!("the page {page} does not exist"))
}

/// Words in backticks that look like paths and lead to no file.
fn paths<'a>(tree: &'a Tree, text: &'a str) -> impl Iterator<Item = Finding> + 'a {
    (1..).zip(text.lines()).flat_map(move |(line, text)| {
        let words = text.split('`').skip(1).step_by(2).filter(|word| is_path(word));
        let missing = words.filter(|word| !tree.has(&joined(Path::new(""), word)));
        missing.map(move |word| Finding::new(MAP, line, format!("the path {word} does not exist")))
    })
}

/// Whether a word is a path below the root: a slash or a file's ending, and no other signs than paths have.
fn is_path(word: &str) -> bool {
    let signs = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let endings = [".rs", ".md", ".toml", ".service", ".path"];
    let like = word.contains('/') || endings.iter().any(|ending| word.ends_with(ending));
    like && !word.starts_with(['/', '.', '-']) && word.chars().all(signs)
}

/// `folder/to` without `..` and `.`.
fn joined(folder: &Path, to: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(to).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

/// What paths of this machine, or of somebody's, begin with.
fn machine_places(root: &Path) -> Vec<String> {
    // Taken apart, for this file is checked too.
    let mut places = vec![concat!("/ho", "me/").to_owned(), concat!("/Us", "ers/").to_owned()];
    let top = root.components().nth(1).and_then(|part| part.as_os_str().to_str());
    places.extend(top.filter(|top| !COMMON.contains(top)).map(|top| format!("/{top}/")));
    places
}

fn machine_place(places: &[String], line: &str) -> Option<String> {
    let starts = |at: usize| {
        let before = line.get(..at).and_then(|text| text.chars().next_back());
        before.is_none_or(|c| !c.is_alphanumeric() && !"._-/~})>".contains(c))
    };
    let place = places.iter().find(|place| line.match_indices(place.as_str()).any(|(at, _)| starts(at)))?;
    Some(format!("a path below {place} (limit: nothing that only one machine has)"))
}

/// The first address in a line whose host is not known.
fn foreign_host(line: &str) -> Option<String> {
    let addresses = ["http://", "https://"].into_iter().flat_map(|scheme| line.split(scheme).skip(1));
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    let mut hosts = addresses.filter_map(|rest| rest.split(|c| !is_part(c)).next());
    let foreign = hosts.find(|host| !host.is_empty() && !HOSTS.contains(host))?;
    Some(format!("the host {foreign} (limit: HOSTS in lint/places.rs, and never a registry)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tree: &Tree, root: &str) -> Vec<String> {
        check(tree, Path::new(root)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_of_the_map_that_is_gone_is_found() {
        let map = "# Map\n`vmm/src/plug.rs`, `vmm/src`, `vmm/src/gone.rs` and `gone.md`\n`a -> b/c`, `N/A!`, `/dev/kvm`\n";
        let tree = Tree::from([("ARCHITECTURE.md", map), ("vmm/src/plug.rs", "")]);
        let missing = |path| format!("ARCHITECTURE.md:2: the path {path} does not exist");
        assert_eq!(found(&tree, "/"), [missing("vmm/src/gone.rs"), missing("gone.md")]);
    }

    #[test]
    fn a_link_to_a_file_that_is_gone_is_found() {
        let text = "[a](../README.md) [b](#here)\n[c](gone.md#there) [d](https://github.com/x)\n";
        let tree = Tree::from([("README.md", ""), ("pages/a.md", text)]);
        assert_eq!(found(&tree, "/"), ["pages/a.md:2: a link to gone.md, which does not exist"]);
    }

    #[test]
    fn a_page_that_a_comment_names_exists() {
        let comment = concat!("//! do", "cs/a.md and do", "cs/b.md.");
        let tree = Tree::from([(concat!("do", "cs/a.md"), ""), ("a/src/lib.rs", comment)]);
        assert_eq!(found(&tree, "/"), [concat!("a/src/lib.rs:1: the page do", "cs/b.md does not exist")]);
    }

    #[test]
    fn places_of_one_machine_are_found() {
        let (user, ours) = (concat!("see /ho", "me/me/x"), concat!("cd '/data", "centre/kiwi'"));
        let text = format!("{user}\n{ours}\n/dev/kvm, /tmp/x and vmm/datacentre/x\n");
        let tree = Tree::from([("a.sh", text.as_str())]);
        let lines = found(&tree, "/datacentre/kiwi");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("a.sh:1: a path below") && lines[1].starts_with("a.sh:2: a path below"));
    }

    #[test]
    fn a_root_in_a_common_folder_forbids_no_other_path_there() {
        assert_eq!(found(&Tree::from([("a.sh", "ls /tmp/x /usr/src/x")]), "/tmp/kiwi"), [""; 0]);
    }

    #[test]
    fn addresses_lead_to_known_hosts_only() {
        let good = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
        let bad = concat!("registry = \"sparse+https", "://mirror.example:8080/index/\"");
        let lock = format!("{good}\n{bad}\n");
        let tree = Tree::from([("Cargo.lock", lock.as_str())]);
        let lines = found(&tree, "/");
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("Cargo.lock:2: the host mirror.example "), "{lines:?}");
    }
}
