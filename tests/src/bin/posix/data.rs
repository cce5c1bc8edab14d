//! What is in files: lengths, holes, space, locks.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, FcntlArg, Flock, FlockArg, fallocate, fcntl};
use nix::unistd::{Whence, lseek};

use super::{Has, open};

pub(crate) fn appending(dir: &Path, _: &Has) {
    let path = dir.join("file");
    let open = || OpenOptions::new().append(true).create(true).open(&path).expect("a file");
    let (mut one, mut other) = (open(), open());
    for n in 0..50 {
        writeln!(one, "one {n}").expect("written");
        writeln!(other, "other {n}").expect("written");
    }
    let text = fs::read_to_string(&path).expect("read");
    let expected: String = (0..50).map(|n| format!("one {n}\nother {n}\n")).collect();
    assert_eq!(text, expected);
}

pub(crate) fn lengths(dir: &Path, _: &Has) {
    let file = File::create_new(dir.join("file")).expect("a file");
    for len in [0, 1, 4095, 4096, 4097, 1 << 20, 5 << 30, 3] {
        file.set_len(len).expect("a length");
        assert_eq!(file.metadata().expect("known").len(), len);
    }
    let mode = 0o4755;
    fs::set_permissions(dir.join("file"), PermissionsExt::from_mode(mode)).expect("a mode");
    assert_eq!(fs::metadata(dir.join("file")).expect("known").mode() & 0o7777, mode);
}

const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

pub(crate) fn holes(dir: &Path, _: &Has) {
    let file = open(&dir.join("file"));
    file.write_all_at(&[7; 65536], 0).expect("written");
    fallocate(&file, PUNCH, 4096, 8192).expect("punched");
    assert_eq!(file.metadata().expect("known").len(), 65536);
    let mut bytes = vec![1; 65536];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes[4096..12288].iter().all(|b| *b == 0) && bytes[..4096].iter().all(|b| *b == 7));
    // With a cache that is written back, Linux asks where data are before the daemon has them all.
    file.sync_all().expect("synchronised");
    assert_eq!(lseek(&file, 0, Whence::SeekHole), Ok(4096));
    assert_eq!(lseek(&file, 4096, Whence::SeekData), Ok(12288));
    assert_eq!(lseek(&file, 65536, Whence::SeekData), Err(nix::Error::ENXIO));
}

pub(crate) fn space(dir: &Path, has: &Has) {
    let file = open(&dir.join("file"));
    let meta = || file.metadata().expect("known");
    fallocate(&file, FallocateFlags::empty(), 65536, 65536).expect("made");
    assert_eq!(meta().len(), 131_072);
    let blocks = meta().blocks();
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 131_072, 65536).expect("made");
    assert_eq!(meta().len(), 131_072);
    assert!(meta().blocks() >= blocks + 128, "{blocks} and then {}", meta().blocks());
    file.write_all_at(&[7; 8192], 0).expect("written");
    let zeroed = fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 1000, 5000);
    let mut bytes = vec![1; 8192];
    file.read_exact_at(&mut bytes, 0).expect("read");
    let zeroes = bytes.iter().filter(|b| **b == 0).count();
    if has.has(Has::ZEROES) {
        assert_eq!((zeroed, zeroes), (Ok(()), 5000));
    } else {
        assert_eq!((zeroed, zeroes), (Err(nix::Error::EOPNOTSUPP), 0));
    }
    // Taking a range out would move what follows, which FUSE has no word for.
    let collapsed = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapsed, Err(nix::Error::EOPNOTSUPP));
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, 0), Err(nix::Error::EINVAL));
    let reader = File::open(dir.join("file")).expect("open");
    assert_eq!(fallocate(&reader, FallocateFlags::empty(), 0, 4096), Err(nix::Error::EBADF));
}

pub(crate) fn locks(dir: &Path, _: &Has) {
    let file = || open(&dir.join("file"));
    let held = Flock::lock(file(), FlockArg::LockExclusiveNonblock).expect("locked");
    let refused = Flock::lock(file(), FlockArg::LockSharedNonblock).expect_err("held");
    assert_eq!(refused.1, nix::Error::EWOULDBLOCK);
    drop(held);
    drop(Flock::lock(file(), FlockArg::LockSharedNonblock).expect("free"));
    // POSIX's ranges, by open files instead of by processes.
    let (one, other) = (file(), file());
    let range = |file: &File, kind: i32, start, bytes| {
        let range = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: start,
            l_len: bytes,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(drop)
    };
    assert_eq!(range(&one, libc::F_WRLCK, 0, 10), Ok(()));
    assert_eq!(range(&other, libc::F_RDLCK, 9, 1), Err(nix::Error::EAGAIN));
    assert_eq!(range(&other, libc::F_WRLCK, 10, 10), Ok(()), "beside it");
    assert_eq!(range(&one, libc::F_RDLCK, 0, 10), Ok(()), "one's own, made less");
    assert_eq!(range(&other, libc::F_RDLCK, 0, 10), Ok(()), "shared");
    assert_eq!(range(&one, libc::F_WRLCK, 0, 10), Err(nix::Error::EAGAIN));
    drop(other);
    assert_eq!(range(&one, libc::F_WRLCK, 0, 20), Ok(()), "closing gives all back");
}

pub(crate) fn sizes(dir: &Path, _: &Has) {
    let space = nix::sys::statvfs::statvfs(dir).expect("a file system");
    assert!(space.blocks() > 0 && space.blocks() >= space.blocks_free() && space.files() > 0);
    assert_eq!(space.name_max(), 255);
}
