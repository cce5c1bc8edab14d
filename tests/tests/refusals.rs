//! Hostile and clumsy input: one clear sentence, the class's exit status, no panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Outcome, TestVm};

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

/// Where a bzImage's payload lies (Documentation/arch/x86/boot.rst). Signatures may stand behind it.
fn payload(image: &[u8]) -> std::ops::Range<usize> {
    let field = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().expect("four bytes")) as usize;
    let start = (usize::from(image[0x1f1]) + 1) * 512 + field(0x248);
    start..start + field(0x24c)
}

fn packed(flavour: &str) -> Vec<u8> {
    fs::read(tests::assets().join(flavour).join("vmlinuz")).expect("a kernel")
}

/// The cloud kernel with the beginning of its vmlinux packed by gzip, which none of Debian's kernels is.
fn packed_by_gzip() -> Vec<u8> {
    let mut gzip =
        Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip runs");
    let mut input = gzip.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || input.write_all(&cut("vmlinux", 4 << 20)));
    let packed_vmlinux = gzip.wait_with_output().expect("gzip ends").stdout;
    writer.join().expect("joined").expect("gzip reads all");
    let mut image = packed("6.1-cloud");
    let start = payload(&image).start;
    image.truncate(start);
    let size = |n: usize| u32::try_from(n).expect("a size").to_le_bytes();
    image[0x24c..0x250].copy_from_slice(&size(packed_vmlinux.len()));
    image.extend(packed_vmlinux);
    image.resize(image.len().next_multiple_of(512), 0);
    let system = image.len() - (usize::from(image[0x1f1]) + 1) * 512;
    image[0x1f4..0x1f8].copy_from_slice(&size(system / 16));
    image
}

#[test]
fn packed_kernels_of_every_kind_are_refused_when_cut_or_damaged() {
    for (name, image) in [
        ("lz4", packed("6.1-cloud")),
        ("xz", packed("6.1-generic")),
        ("zstd", packed("6.12-cloud")),
        ("gzip", packed_by_gzip()),
    ] {
        let payload = payload(&image);
        for length in [520, 0x230, 5000, payload.end / 2, payload.end - 600] {
            refused(&image[..length], &["cut short"]);
        }
        let mut damaged = image;
        let at = payload.start + (64 << 10);
        damaged[at..at + 4096].fill(0xff);
        refused(&damaged, &[name, "payload is corrupt"]);
    }
}

#[test]
fn a_signal_while_a_kernel_is_unpacked_leaves_nothing_half_written() {
    for wait in [50, 200, 800] {
        let cache = tests::scratch();
        let kernel = tests::assets().join("6.1-generic/vmlinuz");
        let vm = TestVm::of("6.1-generic").kernel(kernel).command(&["sleep", "1000"]);
        let mut words = vm.words();
        words.env("KIWI_CACHE", cache.path()).stdin(Stdio::null());
        let child = words.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("vmm starts");
        std::thread::sleep(Duration::from_millis(wait));
        let killed = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
        assert!(killed.success());
        tests::wait(child).assert_ended_by(15);
        let left = fs::read_dir(cache.path().join("tmp")).map(Iterator::count).unwrap_or(0);
        assert_eq!(left, 0, "after {wait} ms");
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
    vm.kernel(fifo).run().assert_status(65).assert_sentence(&["is a FIFO"]);
}

#[test]
fn an_initrd_larger_than_memory_is_refused() {
    let vm = TestVm::boot();
    let big = vm.scratch().join("big");
    fs::File::create(&big).and_then(|f| f.set_len(1 << 30)).expect("a sparse file");
    vm.initrd(Some(&big)).memory("256M").run().assert_status(65).assert_sentence(&["initrd"]);
}

#[test]
fn an_initrd_that_only_fits_without_the_kernel_is_refused() {
    let vm = TestVm::boot();
    let big = vm.scratch().join("big");
    fs::File::create(&big).and_then(|f| f.set_len(245 << 20)).expect("a sparse file");
    let outcome = vm.initrd(Some(&big)).memory("256M").run();
    outcome.assert_status(65).assert_sentence(&["initrd", "does not fit behind the kernel"]);
}

#[test]
fn a_folder_a_fifo_and_nothing_are_no_initrds() {
    let refused = |path: &Path, words: &[&str]| {
        TestVm::boot().initrd(Some(path)).run().assert_status(65).assert_sentence(words);
    };
    refused(Path::new("/"), &["initrd", "is a directory"]);
    refused(Path::new("/no/such/initrd"), &["there is no initrd at /no/such/initrd"]);
    let dir = tests::scratch();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    refused(&fifo, &["is a FIFO"]);
    let empty = dir.path().join("empty");
    fs::write(&empty, "").expect("written");
    refused(&empty, &["is empty"]);
}

#[test]
fn sizes_and_counts_out_of_range_are_refused() {
    let refused = |vm: TestVm, status, words: &[&str]| {
        vm.run().assert_status(status).assert_sentence(words);
    };
    refused(TestVm::boot().memory("1M"), 64, &["at least 64 MiB"]);
    refused(TestVm::boot().memory("1000G"), 69, &["more than the host's"]);
    refused(TestVm::boot().cpus(0), 64, &["1 to 32"]);
    refused(TestVm::boot().flag("--cpus", "10000"), 64, &["1 to 32"]);
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

/// A `vmm` that anybody may run and a kernel that anybody may read, in a folder of the test's own.
fn for_everybody() -> (tempfile::TempDir, PathBuf) {
    let dir = tests::scratch();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let vmm = dir.path().join("vmm");
    fs::copy(tests::vmm(), &vmm).expect("copied");
    fs::write(dir.path().join("vmlinux"), cut("vmlinux", 64 << 10)).expect("written");
    (dir, vmm)
}

/// Runs `vmm` on a host whose /dev has what `script` puts there, by what the script leaves in front of it.
fn on_a_host(script: &str) -> Outcome {
    let (dir, vmm) = for_everybody();
    // A mount namespace of its own: nobody else sees what happens to /dev.
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-ec"]);
    unshare.arg(format!("mount -t tmpfs dev /dev; {script} \"$@\"")).arg("sh").arg(vmm);
    unshare.arg("--kernel").arg(dir.path().join("vmlinux")).args(["--log-level", "error"]);
    unshare.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    tests::wait(unshare.spawn().expect("unshare runs"))
}

#[test]
fn a_host_without_kvm_is_told_so() {
    on_a_host("exec").assert_status(69).assert_sentence(&["this host has no /dev/kvm", "module"]);
}

#[test]
fn a_device_that_is_not_kvm_is_told_so() {
    let script = "mknod -m 666 /dev/kvm c 1 3; exec";
    on_a_host(script).assert_status(69).assert_sentence(&["this host's KVM has no"]);
}

#[test]
fn a_user_who_may_not_use_kvm_is_told_so() {
    let script = "mknod -m 600 /dev/kvm c 10 232; exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let outcome = on_a_host(script);
    outcome.assert_status(69).assert_sentence(&["/dev/kvm may not be opened by this user", "group"]);
}

#[test]
fn a_kernel_that_may_not_be_read_is_refused() {
    let (dir, vmm) = for_everybody();
    let kernel = dir.path().join("vmlinux");
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o600)).expect("ours");
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(vmm).arg("--kernel").arg(kernel);
    nobody.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let outcome = tests::wait(nobody.spawn().expect("setpriv runs"));
    outcome.assert_status(65).assert_sentence(&["cannot be read", "Permission denied"]);
}
