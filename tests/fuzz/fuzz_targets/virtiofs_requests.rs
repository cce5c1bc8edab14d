//! The daemon's file system against a guest that sends whatever it likes. Nothing outside of the directory may change.
#![no_main]

#[path = "../sys.rs"]
mod sys;

use std::fs;

use libfuzzer_sys::fuzz_target;
use virtio_fs::daemon::testing::Guest;

/// FUSE_FALLOCATE, which is a way to fill the disk and has nothing to be taken apart wrongly.
const FALLOCATE: u32 = 43;

fuzz_target!(|data: &[u8]| {
    sys::limit_files();
    let place = tempfile::tempdir().expect("a folder");
    let dir = place.path().join("shared");
    fs::create_dir_all(dir.join("sub")).expect("a folder");
    fs::write(dir.join("file"), "content").expect("a file");
    fs::write(place.path().join("secret"), "secret").expect("a file");
    std::os::unix::fs::symlink(place.path().join("secret"), dir.join("link")).expect("a link");
    let mut guest = Guest::new(&dir, &["--posix-acl"]);
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
    assert_eq!(fs::read_to_string(place.path().join("secret")).expect("it is there"), "secret");
    assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 2);
});
