use super::*;
use crate::elf::tests::{elf_with, note};
use crate::unpack::tests::{bzimage, gzip};
use std::os::unix::fs::PermissionsExt;

struct Host {
    root: tempfile::TempDir,
    elf: Vec<u8>,
}

impl Host {
    fn new() -> Self {
        let body = [vec![7u8; 9000], vec![0; 1 << 16], vec![8; 100]].concat();
        let elf = elf_with(&body, &note(3, b"GNU\0", &[0xcd; 20]));
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("vmlinuz"), bzimage(&gzip(&elf))).unwrap();
        Self { root, elf }
    }

    fn cache(&self) -> Cache {
        Cache::open(&self.dir()).unwrap()
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn copy(&self) -> PathBuf {
        self.dir().join(BY_BUILD_ID).join("cd".repeat(20)).join("vmlinux")
    }

    fn get(&self) -> Origin {
        let mut got = self.cache().vmlinux(&self.root.path().join("vmlinuz")).unwrap();
        let mut bytes = Vec::new();
        got.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, self.elf);
        got.origin
    }
}

#[test]
fn the_second_request_is_a_hit() {
    let host = Host::new();
    assert_eq!(host.get(), Origin::Stored);
    assert_eq!(host.get(), Origin::Cached);
    assert_eq!(fs::metadata(host.dir()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_dir(host.dir().join(TMP)).unwrap().count(), 0);
    assert!(host.copy().is_file());
}

#[test]
fn a_truncated_copy_is_made_again() {
    let host = Host::new();
    host.get();
    fs::set_permissions(host.copy(), fs::Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(host.copy()).unwrap().set_len(100).unwrap();
    assert_eq!(host.get(), Origin::Stored);
    assert_eq!(host.get(), Origin::Cached);
}

#[test]
fn a_copy_written_to_in_place_is_made_again() {
    let host = Host::new();
    host.get();
    fs::set_permissions(host.copy(), fs::Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(host.copy()).unwrap().write_all_at(b"evil", 0).unwrap();
    assert_eq!(host.get(), Origin::Stored);
}

#[test]
fn a_replaced_image_is_unpacked_anew() {
    let mut host = Host::new();
    host.get();
    host.elf = elf_with(b"another", &note(3, b"GNU\0", &[0xee; 20]));
    fs::write(host.root.path().join("vmlinuz"), bzimage(&gzip(&host.elf))).unwrap();
    assert_eq!(host.get(), Origin::Stored);
}

#[test]
fn a_cache_that_cannot_be_written_costs_only_the_copy() {
    let host = Host::new();
    // A file where a directory must be fails for root too.
    let cache = host.cache();
    fs::write(host.dir().join(BY_BUILD_ID), b"").unwrap();
    let got = cache.vmlinux(&host.root.path().join("vmlinuz")).unwrap();
    assert_eq!(got.origin, Origin::Memory);
    assert!(matches!(got.unkept, Some(CacheError::Store { .. })));
    let mut bytes = vec![0; host.elf.len()];
    got.file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, host.elf);
}

#[test]
fn a_cache_that_others_can_write_is_refused() {
    let host = Host::new();
    fs::create_dir(host.dir()).unwrap();
    fs::set_permissions(host.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Cache::open(&host.dir()), Err(CacheError::Mode(_))));
}

#[test]
fn an_elf_is_given_as_it_is() {
    let host = Host::new();
    let path = host.root.path().join("vmlinux");
    fs::write(&path, &host.elf).unwrap();
    let got = host.cache().vmlinux(&path).unwrap();
    assert_eq!((got.origin, got.path), (Origin::Given, Some(path)));
}

#[test]
fn a_directory_a_fifo_and_an_empty_file_are_named_as_such() {
    let host = Host::new();
    let say = |path: &Path| {
        let error = host.cache().vmlinux(path).unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    assert!(say(host.root.path()).ends_with("is a directory, not a file"));
    let fifo = host.root.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    assert!(say(&fifo).ends_with("is a FIFO, not a file"));
    let empty = host.root.path().join("empty");
    fs::write(&empty, b"").unwrap();
    assert!(say(&empty).ends_with("can't be used: the file is empty"));
}

#[test]
fn old_kernels_leave_the_cache() {
    let host = Host::new();
    for number in 0..=tidy::KEPT {
        let place = host.dir().join(BY_BUILD_ID).join(format!("{number:02}"));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("vmlinux"), b"old").unwrap();
    }
    fs::set_permissions(host.dir(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(host.get(), Origin::Stored);
    assert_eq!(fs::read_dir(host.dir().join(BY_BUILD_ID)).unwrap().count(), tidy::KEPT);
    assert_eq!(host.get(), Origin::Cached);
}

#[test]
fn the_variables_are_asked_in_their_order() {
    let of = |set: &[(&str, &str)], root| {
        dir_from(
            |name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
            root,
        )
    };
    let all = [("KIWI_CACHE", "/k"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
    assert_eq!(of(&all, true), Some("/k".into()));
    assert_eq!(of(&all[1..], true), Some("/x/kiwi".into()));
    assert_eq!(of(&all[2..], true), Some("/h/.cache/kiwi".into()));
    assert_eq!(of(&[], true), Some("/var/cache/kiwi".into()));
    assert_eq!(of(&[], false), None);
    assert_eq!(of(&[("XDG_CACHE_HOME", "relative")], false), None);
}
