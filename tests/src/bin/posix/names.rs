//! Names: files that come, move and go.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, RenameFlags, renameat2};

use super::{Has, errno, open};

pub(crate) fn exclusive(dir: &Path, _: &Has) {
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

pub(crate) fn unlinked(dir: &Path, _: &Has) {
    let path = dir.join("file");
    let mut file = open(&path);
    fs::remove_file(&path).expect("removed");
    file.write_all(b"still here").expect("written");
    file.seek(SeekFrom::Start(0)).expect("sought");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "still here");
    assert_eq!(file.metadata().expect("known").nlink(), 0);
    assert_eq!(fs::read_dir(dir).expect("a folder").count(), 0);
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

pub(crate) fn renaming(dir: &Path, _: &Has) {
    let (a, b) = (&dir.join("a"), &dir.join("b"));
    fs::write(a, "a").expect("a file");
    fs::write(b, "b").expect("a file");
    let exchange = RenameFlags::RENAME_EXCHANGE;
    assert_eq!(rename(a, b, RenameFlags::RENAME_NOREPLACE), Err(nix::Error::EEXIST));
    assert_eq!(rename(a, b, RenameFlags::RENAME_NOREPLACE | exchange), Err(nix::Error::EINVAL));
    assert_eq!(rename(a, &dir.join("none"), exchange), Err(nix::Error::ENOENT));
    rename(a, b, exchange).expect("exchanged");
    assert_eq!((fs::read(a).expect("a"), fs::read(b).expect("b")), (b"b".to_vec(), b"a".to_vec()));
    rename(a, b, RenameFlags::empty()).expect("moved");
    assert_eq!(fs::read(b).expect("b"), b"b");
    assert!(!a.exists());
    rename(b, a, RenameFlags::RENAME_NOREPLACE).expect("nothing is in the way");
    // An open file is the same one by its new name; the one that it replaces lives on while it is open.
    fs::write(b, "replaced").expect("a file");
    let (mut moved, mut replaced) = (open(a), open(b));
    fs::rename(a, b).expect("moved");
    moved.write_all(b"moved").expect("written");
    let mut text = String::new();
    replaced.read_to_string(&mut text).expect("read");
    assert_eq!((fs::read_to_string(b).expect("b").as_str(), text.as_str()), ("moved", "replaced"));
    assert_eq!(errno(fs::rename(dir.join("none"), b)), libc::ENOENT);
}

pub(crate) fn renaming_folders(dir: &Path, _: &Has) {
    let (file, full, empty) = (&dir.join("file"), &dir.join("full"), &dir.join("empty"));
    fs::write(file, "").expect("a file");
    fs::create_dir_all(full.join("below")).expect("folders");
    fs::create_dir(empty).expect("a folder");
    assert_eq!(errno(fs::rename(full, full.join("below/it"))), libc::EINVAL);
    assert_eq!(errno(fs::rename(empty, full)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::rename(file, empty)), libc::EISDIR);
    assert_eq!(errno(fs::rename(empty, file)), libc::ENOTDIR);
    fs::rename(full, empty).expect("an empty folder gives way");
    assert!(empty.join("below").exists() && !full.exists());
    rename(empty, file, RenameFlags::RENAME_EXCHANGE).expect("of two kinds");
    assert!(file.join("below").exists() && empty.is_file());
    // A whiteout is a device that is none, by which a layer over another says that a name has gone.
    rename(empty, &dir.join("moved"), RenameFlags::RENAME_WHITEOUT).expect("moved");
    let left = fs::symlink_metadata(empty).expect("a whiteout");
    assert!(left.file_type().is_char_device() && left.rdev() == 0, "{left:?}");
}

pub(crate) fn links(dir: &Path, _: &Has) {
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
    assert_eq!(errno(fs::hard_link(dir, dir.join("folder"))), libc::EPERM);
    fs::remove_file(dir.join("a")).expect("removed");
    assert_eq!(fs::metadata(dir.join("b")).expect("b").nlink(), 1);
}

/// More than one reply lists, twice over.
const MANY: usize = 150;

pub(crate) fn folders(dir: &Path, _: &Has) {
    let many = dir.join("many");
    fs::create_dir(&many).expect("a folder");
    for n in 0..MANY {
        fs::write(many.join(format!("file with a long name, number {n}")), "").expect("a file");
    }
    assert_eq!(fs::read_dir(&many).expect("a folder").count(), MANY);
    assert_eq!(errno(fs::remove_dir(&many)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(&many)), libc::EISDIR);
    assert_eq!(errno(fs::create_dir(&many)), libc::EEXIST);
    for entry in fs::read_dir(&many).expect("a folder") {
        fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    fs::remove_dir(&many).expect("removed");
}

/// FUSE has it from Linux 6.2 on, and only of a daemon that has it, too.
pub(crate) fn nameless(dir: &Path, _: &Has) {
    let file = File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(dir);
    let file = match file {
        Ok(file) => file,
        Err(e) => return assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP)),
    };
    (&file).write_all(b"named later").expect("written");
    assert_eq!(fs::read_dir(dir).expect("a folder").count(), 0);
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    let to = dir.join("named");
    nix::unistd::linkat(AT_FDCWD, itself.as_str(), AT_FDCWD, &to, AtFlags::AT_SYMLINK_FOLLOW).expect("named");
    assert_eq!(fs::read(to).expect("read"), b"named later");
}
