//! Clumsy command lines: each is one clear sentence and the exit status of its class, before anything is built.
#![allow(clippy::expect_used)] // a test says what it expects, in its helpers too

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `vmm`; gives its exit status and what it said.
fn vmm(words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vmm"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("vmm starts");
    assert!(output.stdout.is_empty(), "{words:?} printed to stdout");
    (output.status.code().expect("vmm ends by itself"), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn refused(status: i32, words: &[&str], about: &str) {
    let (got, said) = vmm(words);
    assert_eq!(got, status, "{words:?} said {said}");
    assert_eq!(said.lines().count(), 1, "{words:?} said {said}");
    assert!(said.starts_with("vmm: ") && said.contains(about), "{words:?} said {said}");
    assert!(!said.contains("panicked") && !said.contains("bug in vmm"), "{said}");
}

/// A file of one byte, which is enough for every check before the loader's.
fn file(folder: &Path) -> String {
    let path = folder.join("kernel");
    std::fs::write(&path, "x").expect("the folder is ours");
    path.to_str().expect("a UTF-8 path").to_owned()
}

#[test]
fn words_that_are_no_flags_are_usage_errors() {
    refused(64, &["--kernl", "x"], "did you mean --kernel?");
    refused(64, &["bzImage"], "stands alone");
    refused(64, &["--kernel"], "needs its value");
    refused(64, &["--kernel", "a", "--kernel", "b"], "given twice");
    refused(64, &[], "no kernel is given");
}

#[test]
fn values_out_of_range_are_usage_errors() {
    let dir = tempfile::tempdir().expect("a folder");
    let kernel = file(dir.path());
    let with = |words: &[&str], about| refused(64, &[&["--kernel", &kernel], words].concat(), about);
    with(&["--cpus", "0"], "1 to 32 CPUs");
    with(&["--cpus", "10000"], "1 to 32");
    with(&["--cpus", "-1"], "1 to 32");
    with(&["--memory", "1M"], "at least 64 MiB");
    with(&["--memory", "0"], "at least 64 MiB");
    with(&["--memory", "much"], "a number of bytes");
    with(&["--memory", "size=1G,huge=on"], "did you mean \"hugepages\"?");
    with(&["--serial", "tty", "--console", "tty"], "both want the standard input");
    with(&["--cmdline", &"x".repeat(2048)], "at most 2047");
    with(&["--serial", &format!("socket=/{}", "x".repeat(200))], "at most 107");
}

#[test]
fn memory_beyond_the_host_is_the_hosts_lack() {
    let dir = tempfile::tempdir().expect("a folder");
    refused(69, &["--kernel", &file(dir.path()), "--memory", "15T"], "more than the host's");
}

#[test]
fn files_that_are_no_files_are_boot_file_errors() {
    let dir = tempfile::tempdir().expect("a folder");
    let kernel = file(dir.path());
    refused(65, &["--kernel", "/nonexistent/vmlinuz"], "there is no kernel at");
    refused(65, &["--kernel", "/"], "is a directory");
    refused(65, &["--kernel", "/dev/zero"], "is a character device");
    refused(65, &["--kernel", &kernel, "--initrd", "/nonexistent"], "there is no initrd at");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, "").expect("the folder is ours");
    refused(65, &["--kernel", empty.to_str().expect("UTF-8")], "is empty");
}

#[test]
fn a_fifo_as_kernel_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    refused(65, &["--kernel", fifo.to_str().expect("UTF-8")], "is a FIFO");
}

#[test]
fn an_initrd_larger_than_memory_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let initrd = dir.path().join("initrd");
    // A hole costs nothing.
    let hole = std::fs::File::create(&initrd).expect("the folder is ours");
    hole.set_len(65 << 20).expect("a hole");
    let words =
        ["--kernel", &file(dir.path()), "--memory", "64M", "--initrd", initrd.to_str().expect("UTF-8")];
    refused(65, &words, "does not fit");
}

#[test]
fn a_configuration_file_is_refused_with_its_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("vm.json");
    std::fs::write(&path, "{\n\"memry\": {}}").expect("the folder is ours");
    refused(64, &["--config", path.to_str().expect("UTF-8")], "line 2, column 7: unknown key \"memry\"");
    refused(64, &["--config", "/nonexistent.json"], "cannot be read");
    refused(64, &["--config", "/"], "is not a regular file");
}

#[test]
fn a_log_file_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    refused(
        64,
        &["--kernel", &file(dir.path()), "--log-file", "/nonexistent/log"],
        "cannot be opened for writing",
    );
}

#[test]
fn several_faults_are_told_one_a_line() {
    let (status, said) = vmm(&["--memory", "1M", "--cpus", "0"]);
    assert_eq!(status, 64);
    assert_eq!(said.lines().count(), 3, "{said}");
    assert!(said.lines().all(|line| line.starts_with("vmm: ")), "{said}");
}

#[test]
fn a_dry_run_prints_a_configuration_that_reads_back_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let print = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_vmm"))
            .args(words)
            .arg("--dry-run")
            .output()
            .expect("vmm starts");
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), out.stderr)
    };
    let kernel = file(dir.path());
    let words =
        ["--kernel", &kernel, "--memory", "128M,shared=on", "--serial", "socket=/run/x", "--rng", "on"];
    let (status, first, said) = print(&words);
    if status == Some(69) {
        // A host without KVM is told so, and nothing is printed.
        assert!(first.is_empty() && String::from_utf8_lossy(&said).contains("kvm"));
        return;
    }
    let saved = dir.path().join("vm.json");
    std::fs::write(&saved, &first).expect("the folder is ours");
    let (_, second, _) = print(&["--config", saved.to_str().expect("UTF-8")]);
    assert!(first.contains("\"shared\": true"), "{first}");
    assert_eq!(first, second);
}
