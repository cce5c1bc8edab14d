//! What `guest-image` says when it can't do what it is asked: one sentence that names what is wrong and what to do.
#![allow(clippy::unwrap_used)] // a test says what it expects, in its helpers too

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A host with a kernel that is an ELF file already, one module, and stand-ins for init and busybox.
fn host() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &[u8]| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("boot/vmlinuz-6.1", &guest::mark_init());
    write("lib/modules/6.1/modules.dep", b"kernel/gone.ko:\n");
    write("init", &guest::mark_init());
    write("busybox", b"#!/bin/sh\necho bin/sh\n");
    let busybox = root.path().join("busybox");
    fs::set_permissions(busybox, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    root
}

fn build(root: &Path, words: &[&str]) -> Output {
    let mut image = Command::new(env!("CARGO_BIN_EXE_guest-image"));
    image.arg("build").arg("--root").arg(root).env("KIWI_CACHE", root.join("cache"));
    image.arg("--init").arg(root.join("init")).arg("--busybox").arg(root.join("busybox"));
    if !words.contains(&"--out") {
        image.arg("--out").arg(root.join("out"));
    }
    image.args(words).output().unwrap()
}

/// Asks for what can't be done; the words the one line must have.
fn refused(words: &[&str], expected: &[&str]) {
    let root = host();
    let output = build(root.path(), words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("guest-image: "), "{said}");
    assert!(expected.iter().all(|word| said.contains(word)), "wants {expected:?}: {said}");
    assert!(!root.path().join("out").exists(), "left behind");
}

#[test]
fn a_host_with_what_is_needed_gets_its_image_and_keeps_it() {
    let root = host();
    let built = build(root.path(), &["--no-modules"]);
    assert!(built.status.success(), "{built:?}");
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said(&built).contains("kernel 6.1 (vmlinux), initrd "), "{built:?}");
    let again = build(root.path(), &["--no-modules", "--if-changed"]);
    assert!(said(&again).ends_with("kernel 6.1, unchanged\n"), "{again:?}");
    let other = build(root.path(), &["--no-modules", "--if-changed", "--compress", "gzip"]);
    assert!(said(&other).contains("initrd "), "{other:?}");
}

#[test]
fn the_manual_has_every_flag_of_build_and_no_other() {
    let help = build(Path::new("/"), &["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let flag = |line: &str| line.trim_start().strip_prefix("--")?.split([' ', '.']).next().map(str::to_owned);
    let flags: BTreeSet<_> = help.lines().filter_map(flag).collect();
    let manual = include_str!("../../docs/guest-image.md");
    let row = |line: &str| line.strip_prefix("| `--")?.split(['`', ' ']).next().map(str::to_owned);
    let listed: BTreeSet<_> = manual.lines().filter_map(row).collect();
    assert!(flags.contains("kernel-release"), "{help}");
    assert_eq!(listed, flags);
}

#[test]
fn a_release_that_is_not_installed_is_named_with_its_place() {
    refused(&["--kernel-release", "9.9.9-none"], &["9.9.9-none", "/boot"]);
}

#[test]
fn a_module_that_the_kernel_lacks_is_named() {
    refused(&["--modules", "no_such_driver"], &["6.1", "no_such_driver"]);
}

#[test]
fn a_module_whose_file_is_gone_is_named() {
    refused(&["--modules", "gone"], &["kernel/gone.ko", "can't be read"]);
}

#[test]
fn modules_that_are_nowhere_come_with_the_cure() {
    let root = host();
    fs::remove_dir_all(root.path().join("lib")).unwrap();
    let output = build(root.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("lib/modules/6.1") && said.contains("--no-modules"), "{said}");
}

#[test]
fn an_init_that_is_missing_comes_with_the_cure() {
    let root = host();
    fs::remove_file(root.path().join("init")).unwrap();
    let output = build(root.path(), &["--no-modules"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("init can't be read") && said.contains("--init"), "{said}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    // No permission would do as well, but not for root.
    refused(&["--no-modules", "--out", "/dev/null/image"], &["/dev/null/image", "can't be made"]);
}

#[test]
fn a_kernel_that_is_none_is_named() {
    let root = host();
    fs::write(root.path().join("boot/vmlinuz-6.1"), "not a kernel").unwrap();
    let output = build(root.path(), &["--no-modules"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("boot/vmlinuz-6.1"), "{said}");
}
