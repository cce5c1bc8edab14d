//! What POSIX and Linux promise of files, checked in the guest, in the folder that is given: see tests/tests/fs.rs.
//!
//! ```text
//! posix probe FOLDER      on the host: says yes or no, whether its file system has users' extended attributes
//! posix FOLDER yes|no     in the guest: everything, with or without them
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a check says what it expects by failing
#![allow(clippy::cast_possible_truncation)] // numbers of its own, all small

mod sys;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, RenameFlags, fallocate, renameat2};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

type Check = fn(&Path);

const CHECKS: [(&str, Check); 13] = [
    ("a file is there once", exclusive),
    ("a file that is unlinked lives while it is open", unlinked),
    ("appending is at the end, whoever else appends", appending),
    ("a name moves onto another, or not, or they change places", renaming),
    ("links are counted", links),
    ("a file has the length that it is given", lengths),
    ("holes can be made and found", holes),
    ("locks keep others out", locks),
    ("extended attributes come back", attributes),
    ("users have what is theirs", users),
    ("a folder's group is its files'", groups),
    ("a folder that is not empty stays", folders),
    ("random reads, writes, mappings and lengths agree with a model", random),
];

fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let [word, folder] = &words[..]
        && word == "probe"
    {
        let path = Path::new(folder).join("probe");
        fs::write(&path, "").expect("a file");
        let has = sys::set_attribute(&path, "user.probe", b"x").is_ok();
        fs::remove_file(&path).expect("removed");
        println!("{}", if has { "yes" } else { "no" });
        return;
    }
    let place = PathBuf::from(words.first().expect("a folder"));
    for (n, (name, check)) in CHECKS.into_iter().enumerate() {
        println!("{name}");
        let folder = place.join(format!("check{n}"));
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("a mode");
        check(&folder);
        fs::remove_dir_all(&folder).expect("it can be removed");
    }
    let space = nix::sys::statvfs::statvfs(&place).expect("a file system");
    assert!(space.blocks() > 0 && space.name_max() == 255);
    println!("all is as it should be");
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("it is refused").raw_os_error().expect("by the kernel")
}

fn exclusive(dir: &Path) {
    let path = dir.join("file");
    let new = || OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path);
    new().expect("a file").write_all(b"one").expect("written");
    assert_eq!(errno(new()), libc::EEXIST);
    assert_eq!(fs::metadata(&path).expect("it is there").mode() & 0o777, 0o640);
    assert_eq!(fs::read(&path).expect("read"), b"one");
    File::create(&path).expect("cut");
    assert_eq!(fs::metadata(&path).expect("it is there").len(), 0);
    assert_eq!(errno(File::open(dir.join("none"))), libc::ENOENT);
    assert_eq!(errno(File::open(dir.join("x".repeat(256)))), libc::ENAMETOOLONG);
}

fn unlinked(dir: &Path) {
    let path = dir.join("file");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).expect("a file");
    fs::remove_file(&path).expect("removed");
    file.write_all(b"still here").expect("written");
    file.seek(SeekFrom::Start(0)).expect("sought");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "still here");
    assert_eq!(file.metadata().expect("known").nlink(), 0);
    assert_eq!(fs::read_dir(dir).expect("a folder").count(), 0);
}

fn appending(dir: &Path) {
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

fn renaming(dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    fs::write(&a, "a").expect("a file");
    fs::write(&b, "b").expect("a file");
    let rename = |flags| renameat2(nix::fcntl::AT_FDCWD, &a, nix::fcntl::AT_FDCWD, &b, flags);
    assert_eq!(rename(RenameFlags::RENAME_NOREPLACE), Err(nix::Error::EEXIST));
    rename(RenameFlags::RENAME_EXCHANGE).expect("exchanged");
    assert_eq!((fs::read(&a).expect("a"), fs::read(&b).expect("b")), (b"b".to_vec(), b"a".to_vec()));
    rename(RenameFlags::empty()).expect("moved");
    assert_eq!(fs::read(&b).expect("b"), b"b");
    assert!(!a.exists());
    fs::create_dir_all(dir.join("d/e")).expect("folders");
    assert_eq!(errno(fs::rename(dir.join("d"), dir.join("d/e/f"))), libc::EINVAL);
    fs::rename(&b, dir.join("d/e/moved")).expect("moved");
    assert!(dir.join("d/e/moved").exists());
}

fn links(dir: &Path) {
    fs::write(dir.join("a"), "x").expect("a file");
    fs::hard_link(dir.join("a"), dir.join("b")).expect("a link");
    let (a, b) = (fs::metadata(dir.join("a")).expect("a"), fs::metadata(dir.join("b")).expect("b"));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    symlink("a", dir.join("soft")).expect("a link");
    assert_eq!(fs::read(dir.join("soft")).expect("followed"), b"x");
    fs::hard_link(dir.join("soft"), dir.join("softer")).expect("a link to the link itself");
    assert_eq!(fs::read_link(dir.join("softer")).expect("a link"), Path::new("a"));
    symlink("loop", dir.join("loop")).expect("a link");
    assert_eq!(errno(File::open(dir.join("loop"))), libc::ELOOP);
    fs::remove_file(dir.join("a")).expect("removed");
    assert_eq!(fs::metadata(dir.join("b")).expect("b").nlink(), 1);
}

fn lengths(dir: &Path) {
    let file = File::create_new(dir.join("file")).expect("a file");
    for len in [0, 1, 4095, 4096, 4097, 1 << 20, 5 << 30, 3] {
        file.set_len(len).expect("a length");
        assert_eq!(file.metadata().expect("known").len(), len);
    }
    let mode = 0o4755;
    fs::set_permissions(dir.join("file"), PermissionsExt::from_mode(mode)).expect("a mode");
    assert_eq!(fs::metadata(dir.join("file")).expect("known").mode() & 0o7777, mode);
}

fn holes(dir: &Path) {
    let file =
        File::options().read(true).write(true).create_new(true).open(dir.join("file")).expect("a file");
    file.write_all_at(&[7; 65536], 0).expect("written");
    fallocate(&file, FallocateFlags::empty(), 65536, 65536).expect("made");
    assert_eq!(file.metadata().expect("known").len(), 131_072);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 4096, 8192).expect("punched");
    let mut bytes = vec![1; 65536];
    file.read_exact_at(&mut bytes, 0).expect("read");
    assert!(bytes[4096..12288].iter().all(|b| *b == 0) && bytes[..4096].iter().all(|b| *b == 7));
    let at = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekHole).expect("found");
    assert_eq!(at, 4096);
    let at = nix::unistd::lseek(&file, 4096, nix::unistd::Whence::SeekData).expect("found");
    assert_eq!(at, 12288);
}

fn locks(dir: &Path) {
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("file"))
            .expect("a file")
    };
    let held = Flock::lock(open(), FlockArg::LockExclusiveNonblock).expect("locked");
    let refused = Flock::lock(open(), FlockArg::LockSharedNonblock).expect_err("held");
    assert_eq!(refused.1, nix::Error::EWOULDBLOCK);
    drop(held);
    drop(Flock::lock(open(), FlockArg::LockSharedNonblock).expect("free"));
    let file = open();
    assert!(sys::lock(&file, 0, 10).is_ok(), "a range of one's own");
}

fn attributes(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "").expect("a file");
    if std::env::args().nth(2).as_deref() == Some("no") {
        // What the host's file system says, as a tmpfs before Linux 6.6 does.
        assert_eq!(errno(sys::set_attribute(&path, "user.one", b"1")), libc::EOPNOTSUPP);
        return;
    }
    for (name, value) in [("user.one", &b"1"[..]), ("user.two", &[0xff; 1000]), ("user.none", b"")] {
        sys::set_attribute(&path, name, value).expect("set");
        assert_eq!(sys::attribute(&path, name).expect("read"), value);
    }
    sys::remove_attribute(&path, "user.one").expect("removed");
    assert_eq!(errno(sys::attribute(&path, "user.one")), libc::ENODATA);
    assert_eq!(sys::attributes(&path).expect("listed"), ["user.none", "user.two"]);
}

fn users(dir: &Path) {
    let somebody = |who: u32, what: &dyn Fn()| {
        setfsgid(Gid::from_raw(who));
        setfsuid(Uid::from_raw(who));
        what();
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
    };
    let (theirs, roots) = (dir.join("theirs"), dir.join("roots"));
    fs::write(&roots, "secret").expect("a file");
    fs::set_permissions(&roots, PermissionsExt::from_mode(0o600)).expect("a mode");
    somebody(1000, &|| {
        fs::write(&theirs, "mine").expect("a file");
        fs::set_permissions(&theirs, PermissionsExt::from_mode(0o600)).expect("a mode");
        assert_eq!(errno(File::open(&roots)), libc::EACCES);
    });
    somebody(2000, &|| {
        assert_eq!(errno(File::open(&theirs)), libc::EACCES);
        assert_eq!(errno(fs::set_permissions(&theirs, PermissionsExt::from_mode(0o666))), libc::EPERM);
    });
    let meta = fs::metadata(&theirs).expect("known");
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
    std::os::unix::fs::chown(&theirs, Some(2000), Some(3000)).expect("given away");
    let meta = fs::metadata(&theirs).expect("known");
    assert_eq!((meta.uid(), meta.gid()), (2000, 3000));
}

fn groups(dir: &Path) {
    let folder = dir.join("folder");
    fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, None, Some(1234)).expect("given to a group");
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o2775)).expect("a mode");
    fs::write(folder.join("file"), "").expect("a file");
    fs::create_dir(folder.join("below")).expect("a folder");
    assert_eq!(fs::metadata(folder.join("file")).expect("known").gid(), 1234);
    let below = fs::metadata(folder.join("below")).expect("known");
    assert_eq!((below.gid(), below.mode() & 0o2000), (1234, 0o2000));
}

fn folders(dir: &Path) {
    let many = dir.join("many");
    fs::create_dir(&many).expect("a folder");
    for n in 0..300 {
        fs::write(many.join(format!("file with a long name, number {n}")), "").expect("a file");
    }
    assert_eq!(fs::read_dir(&many).expect("a folder").count(), 300);
    assert_eq!(errno(fs::remove_dir(&many)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(&many)), libc::EISDIR);
    assert_eq!(errno(fs::create_dir(&many)), libc::EEXIST);
    for entry in fs::read_dir(&many).expect("a folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    fs::remove_dir(&many).expect("removed");
}

/// Most bytes of the file of [`random`].
const MOST: u64 = 300_000;

fn random(dir: &Path) {
    let path = dir.join("file");
    let file = File::options().read(true).write(true).create_new(true).open(path).expect("a file");
    let mut model: Vec<u8> = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..400 {
        let (at, len) = (number(MOST), number(40_000) as usize);
        match number(8) {
            0..=3 => {
                let bytes: Vec<u8> = (0..len).map(|_| number(256) as u8).collect();
                file.write_all_at(&bytes, at).expect("written");
                let end = at as usize + len;
                model.resize(model.len().max(if len > 0 { end } else { 0 }), 0);
                model[at as usize..].iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
            4 | 5 => {
                let mut bytes = vec![0; len];
                let got = file.read_at(&mut bytes, at).expect("read");
                let expected = model.get(at as usize..).unwrap_or_default();
                assert_eq!(bytes[..got], expected[..expected.len().min(len)]);
            }
            6 => {
                file.set_len(at).expect("a length");
                model.resize(at as usize, 0);
            }
            // A file that may not be cached cannot be mapped to be written.
            _ if !model.is_empty() => assert!(sys::mapped(&file, model.len()).is_none_or(|got| got == model)),
            _ => {}
        }
    }
    let mut bytes = Vec::new();
    (&file).seek(SeekFrom::Start(0)).expect("sought");
    (&file).read_to_end(&mut bytes).expect("read");
    assert!(bytes == model, "{} bytes and {}", bytes.len(), model.len());
}
