//! Archives in a shared directory: what the guest unpacks is what the host sees, and the other way around.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::files::{attribute, attributes, set_attribute};
use tests::{Server, Share};

/// Files of a tree in CI; `the_whole_tree_is_the_same_on_both_sides` has [`MANY`], for which emulation is too slow.
const FILES: usize = 500;

/// A tree with what archives have: modes, times, attributes, links of both kinds, holes, odd names.
fn grow(root: &Path, files: usize) {
    for n in 0..files {
        let folder = root.join(format!("d{}", n % 50));
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("f{n}"));
        fs::write(&path, format!("{n}\n").repeat(n % 97)).expect("a file");
        let mode = [0o644, 0o755, 0o600, 0o444, 0o4755, 0o2711, 0o000][n % 7];
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("a mode");
        if n % 5 == 0 {
            set_attribute(&path, "user.number", n.to_string().as_bytes()).expect("an attribute");
        }
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + n as u64);
        fs::File::options().read(true).open(&path).expect("root may").set_modified(time).expect("a time");
    }
    let odd = [
        "with space",
        "new\nline",
        "tab\t",
        "ünïcödé",
        "-dash",
        "quote\"'",
        "back\\slash",
        ".hidden",
        "a*?[b]",
    ];
    for name in odd {
        fs::write(root.join(name), name).expect("a file");
    }
    fs::write(root.join("x".repeat(255)), "long").expect("a file");
    fs::hard_link(root.join("d1/f1"), root.join("hard")).expect("a link");
    for (to, name) in [("d1/f1", "soft"), ("/etc/passwd", "absolute"), ("nowhere", "dangling"), ("..", "up")]
    {
        symlink(to, root.join(name)).expect("a link");
    }
    fs::File::create(root.join("sparse")).expect("a file").set_len(64 << 20).expect("a length");
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
}

/// Every file by its path: what can be told of it.
fn census(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let content = match meta.file_type() {
                kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).expect("a link")),
                kind if kind.is_file() => format!("{:?}", digest(&fs::read(&path).expect("a file"))),
                _ => String::new(),
            };
            let name = path.strip_prefix(root).expect("below").display().to_string();
            let (size, time, links) =
                if meta.is_dir() { (0, 0, 0) } else { (meta.size(), meta.mtime(), meta.nlink()) };
            let (mode, user, group) = (meta.mode(), meta.uid(), meta.gid());
            let holes = size > 1 << 20 && meta.blocks() * 512 < size / 2;
            found.push(format!(
                "{name:?} {mode:o} {user}:{group} {size} {time} {links} {holes} {:?} {content}",
                more_of(&path, &meta)
            ));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The extended attributes of a file.
fn more_of(path: &Path, meta: &fs::Metadata) -> Vec<(String, Vec<u8>)> {
    if !meta.is_file() {
        return Vec::new();
    }
    let value = |name: String| (name.clone(), attribute(path, &name).expect("a value"));
    attributes(path).expect("a list").into_iter().map(value).collect()
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// What has tar keep everything.
const ALL: &str = "--xattrs --xattrs-include=* --numeric-owner";

fn same_on_both_sides(server: Server, transport: &str, files: usize, patience: u64) {
    let mebibytes = if files > FILES { 4096 } else { 256 };
    let share = Share::on_disk(mebibytes, server, &["--cache=always", "--xattr"]);
    let dir = share.dir();
    for folder in ["original", "again"] {
        fs::create_dir(dir.join(folder)).expect("a folder");
    }
    grow(&dir.join("original"), files);
    let tar = |words: &[&str]| {
        let done = Command::new("tar").args(ALL.split(' ')).args(words).current_dir(&dir).status();
        assert!(done.expect("tar runs").success(), "tar {words:?}");
    };
    tar(&["-C", "original", "--sparse", "-cf", "tree.tar", "."]);
    let script = format!(
        "mkdir /mnt/out && gtar {ALL} -xpf /mnt/tree.tar -C /mnt/out && \
         gtar {ALL} --sparse -C /mnt/out -cf /mnt/back.tar . && echo ok"
    );
    let vm = share.vm(transport).within(patience).host_program("bin/gtar", "/bin/tar");
    let outcome = vm.command(&["sh", "-c", &script]).run();
    assert_eq!(outcome.assert_status(0).output, "ok\n", "{outcome}");
    let expected = census(&dir.join("original"));
    assert!(expected.len() > files);
    let same = |folder: &str| {
        let found = census(&dir.join(folder));
        let wrong: Vec<_> = expected.iter().zip(&found).filter(|(a, b)| a != b).take(3).collect();
        assert!(
            found == expected,
            "{folder} by {server:?} over {transport}: {} files, {wrong:#?}",
            found.len()
        );
    };
    same("out");
    tar(&["-C", "again", "-xpf", "back.tar"]);
    same("again");
}

#[test]
fn a_tree_is_the_same_on_both_sides_over_pci() {
    same_on_both_sides(Server::Ours, "pci", FILES, 500);
}

#[test]
fn a_tree_is_the_same_on_both_sides_over_mmio() {
    same_on_both_sides(Server::Ours, "mmio", FILES, 500);
}

#[test]
fn a_tree_is_the_same_on_both_sides_of_another_daemon() {
    same_on_both_sides(Server::Theirs, "pci", FILES, 500);
}

/// 20,000 files, which takes too long under emulation for every run: `--ignored` has this executable run them.
const MANY: usize = 20_000;

#[test]
#[ignore = "20,000 files take long under emulation; --ignored runs it"]
fn the_whole_tree_is_the_same_on_both_sides() {
    same_on_both_sides(Server::Ours, "pci", MANY, 3000);
}

#[test]
#[ignore = "20,000 files take long under emulation; --ignored runs it"]
fn the_whole_tree_is_the_same_on_both_sides_of_another_daemon() {
    same_on_both_sides(Server::Theirs, "pci", MANY, 3000);
}
