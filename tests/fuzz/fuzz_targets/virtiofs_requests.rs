//! The daemon's file system against a guest that sends whatever it likes. Nothing outside of the directory may change.
#![no_main]

#[path = "../sys.rs"]
mod sys;

use std::fs;

use libfuzzer_sys::fuzz_target;
use virtio_fs::daemon::testing::Guest;

/// FUSE_FALLOCATE, which is a way to fill the disk and has nothing to be taken apart wrongly.
const FALLOCATE: u32 = 43;
/// A request to the VMM.
const SHMEM_MAP: u32 = 9;

fuzz_target!(|data: &[u8]| {
    sys::limit_files();
    let place = tempfile::tempdir().expect("a folder");
    let dir = place.path().join("shared");
    fs::create_dir_all(dir.join("sub")).expect("a folder");
    fs::write(dir.join("file"), "content").expect("a file");
    fs::write(place.path().join("secret"), "secret").expect("a file");
    std::os::unix::fs::symlink(place.path().join("secret"), dir.join("link")).expect("a link");
    let mut guest = Guest::new(&dir, &["--posix-acl", "--dax-window=2M"]);
    // A VMM that does what it is asked for, but not always.
    let mut asked = 0;
    let vmm = guest.connect(move |request| {
        asked += 1;
        request.answer(u64::from(asked % 4 == 0))
    });
    for name in ["file", "sub", "link"] {
        guest.lookup(1, name).expect("it is there");
    }
    let _ = guest.open(2, libc::O_RDWR);
    let mut rest = data;
    while let [operation, node, len, room, tail @ ..] = rest {
        let len = usize::from(*len).min(tail.len());
        let (body, next) = tail.split_at(len);
        rest = next;
        let operation = u32::from(operation & 0x3f);
        if operation == FALLOCATE {
            continue;
        }
        let mut request = guest.request(operation, u64::from(*node), body);
        // Some heads lie about their length.
        if room & 1 != 0 {
            request[0] ^= room;
        }
        guest.raw(&request, u32::from(*room) << 4);
    }
    for asked in vmm.asked() {
        let [region, at, len, from, flags] = asked.numbers();
        let end = at.checked_add(len).expect("no sum that wraps");
        assert!(region == 0 && len > 0 && (at | len | from) % 4096 == 0 && end <= 2 << 20 && flags <= 1);
        assert!(from.checked_add(len).is_some_and(|end| i64::try_from(end).is_ok()));
        assert_eq!(asked.file.is_some(), asked.request == SHMEM_MAP);
        assert!(asked.file.is_none_or(|file| file.metadata().is_ok_and(|meta| meta.is_file())));
    }
    assert_eq!(fs::read_to_string(place.path().join("secret")).expect("it is there"), "secret");
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 2);
});
