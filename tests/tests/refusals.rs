//! Hostile and clumsy input: one clear sentence, the class's exit status, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;

use tests::TestVm;

/// A kernel made of the first `n` bytes of a real one.
fn cut(name: &str, n: usize) -> Vec<u8> {
    let mut bytes = fs::read(tests::assets().join("6.1-cloud").join(name)).expect("a kernel");
    bytes.truncate(n);
    bytes
}

fn refused(kernel: &[u8], words: &[&str]) {
    let vm = TestVm::boot();
    let path = vm.scratch().join("kernel");
    fs::write(&path, kernel).expect("written");
    vm.kernel(path).run().assert_status(65).assert_sentence(words);
}

#[test]
fn kernels_that_are_none_are_refused() {
    refused(b"", &["empty"]);
    refused(b"not a kernel at all", &["kernel"]);
    refused(&[0; 100_000], &["kernel"]);
}

#[test]
fn kernels_that_are_cut_off_are_refused() {
    for n in [10, 100, 5000, 40 << 20] {
        refused(&cut("vmlinux", n), &["kernel"]);
    }
    for n in [600, 20_000, 4 << 20] {
        refused(&cut("vmlinuz", n), &["kernel"]);
    }
}

#[test]
fn elf_headers_that_lie_are_refused() {
    let real = cut("vmlinux", 64 << 10);
    // e_phoff, e_phnum and the first segment's offset, file size, memory size and address
    for (at, width) in [(32, 8), (56, 2), (64 + 8, 8), (64 + 32, 8), (64 + 40, 8), (64 + 24, 8)] {
        let mut bad = real.clone();
        bad[at..at + width].fill(0xff);
        refused(&bad, &["kernel"]);
    }
}

#[test]
fn a_folder_a_fifo_and_nothing_are_no_kernels() {
    TestVm::boot().kernel("/").run().assert_status(65).assert_sentence(&["directory"]);
    TestVm::boot().kernel("/no/such/kernel").run().assert_status(65).assert_sentence(&["/no/such/kernel"]);
    let vm = TestVm::boot();
    let fifo = vm.scratch().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
    assert!(made.success());
    vm.kernel(fifo).run().assert_status(65);
}

#[test]
fn an_initrd_larger_than_memory_is_refused() {
    let vm = TestVm::boot();
    let big = vm.scratch().join("big");
    fs::File::create(&big).and_then(|f| f.set_len(1 << 30)).expect("a sparse file");
    vm.initrd(Some(&big)).memory("256M").run().assert_status(65).assert_sentence(&["initrd"]);
}

#[test]
fn sizes_and_counts_out_of_range_are_refused() {
    TestVm::boot().memory("1M").run().assert_status(64);
    TestVm::boot().memory("1000G").run().assert_status(69);
    TestVm::boot().flag("--cpus", "0").run().assert_status(64);
    TestVm::boot().flag("--cpus", "10000").run().assert_status(64);
}

#[test]
fn unknown_words_name_the_nearest_known() {
    TestVm::boot().flag("--memroy", "1G").run().assert_status(64).assert_sentence(&["--memory"]);
    TestVm::boot()
        .flag("--memory", "size=1G,hugepage=on")
        .run()
        .assert_status(64)
        .assert_sentence(&["hugepages"]);
}
