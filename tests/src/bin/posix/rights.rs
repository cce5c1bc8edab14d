//! Who may do what: users, groups, modes, attributes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use tests::files::{attribute, attributes as list, remove_attribute, set_attribute};

use super::{Has, errno};

pub(crate) fn attributes(dir: &Path, has: &Has) {
    let path = dir.join("file");
    fs::write(&path, "").expect("a file");
    if !has.has(Has::ATTRIBUTES) {
        // What the host's file system says, as a tmpfs before Linux 6.6 does.
        assert_eq!(errno(set_attribute(&path, "user.one", b"1")), libc::EOPNOTSUPP);
        return;
    }
    for (name, value) in [("user.one", &b"1"[..]), ("user.two", &[0xff; 1000]), ("user.none", b"")] {
        set_attribute(&path, name, value).expect("set");
        assert_eq!(attribute(&path, name).expect("read"), value);
    }
    remove_attribute(&path, "user.one").expect("removed");
    assert_eq!(errno(attribute(&path, "user.one")), libc::ENODATA);
    assert_eq!(list(&path).expect("listed"), ["user.none", "user.two"]);
}

/// Does something as another user, with root's rights laid down.
pub(crate) fn somebody(user: u32, group: u32, what: impl FnOnce()) {
    setfsgid(Gid::from_raw(group));
    setfsuid(Uid::from_raw(user));
    what();
    setfsuid(Uid::from_raw(0));
    setfsgid(Gid::from_raw(0));
}

pub(crate) fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(bits)).expect("a mode");
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("known").mode() & 0o7777
}

pub(crate) fn users(dir: &Path, _: &Has) {
    let (theirs, roots, of_group) = (dir.join("theirs"), dir.join("roots"), dir.join("of_group"));
    for (path, group, bits) in [(&roots, 0, 0o600), (&of_group, 3000, 0o640)] {
        fs::write(path, "secret").expect("a file");
        chown(path, None, Some(group)).expect("given to a group");
        mode(path, bits);
    }
    somebody(1000, 1000, || {
        fs::write(&theirs, "mine").expect("a file");
        mode(&theirs, 0o600);
        for path in [&roots, &of_group] {
            assert_eq!(errno(File::open(path)), libc::EACCES);
        }
        assert_eq!(errno(chown(&theirs, Some(2000), None)), libc::EPERM);
    });
    somebody(2000, 3000, || {
        assert_eq!(errno(File::open(&theirs)), libc::EACCES);
        assert_eq!(errno(fs::set_permissions(&theirs, PermissionsExt::from_mode(0o666))), libc::EPERM);
        assert_eq!(fs::read(&of_group).expect("of one's group"), b"secret");
        assert_eq!(errno(File::options().append(true).open(&of_group)), libc::EACCES);
    });
    let meta = fs::metadata(&theirs).expect("known");
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
    chown(&theirs, Some(2000), Some(3000)).expect("given away");
    let meta = fs::metadata(&theirs).expect("known");
    assert_eq!((meta.uid(), meta.gid()), (2000, 3000));
    in_folders(dir);
}

/// What rights on a folder allow in it.
fn in_folders(dir: &Path) {
    let (closed, shared) = (dir.join("closed"), dir.join("shared"));
    for (path, bits) in [(&closed, 0o711), (&shared, 0o1777)] {
        fs::create_dir(path).expect("a folder");
        fs::write(path.join("file"), "known by name").expect("a file");
        mode(path, bits);
    }
    let before = umask(Mode::from_bits_truncate(0o027));
    somebody(1000, 1000, || {
        assert_eq!(errno(fs::read_dir(&closed)), libc::EACCES);
        assert_eq!(fs::read(closed.join("file")).expect("searched"), b"known by name");
        assert_eq!(errno(File::create(closed.join("new"))), libc::EACCES);
        fs::write(shared.join("mine"), "").expect("a file");
        assert_eq!(mode_of(&shared.join("mine")), 0o640, "as the mask says");
        assert_eq!(errno(fs::remove_file(shared.join("file"))), libc::EPERM, "sticky");
    });
    umask(before);
    somebody(2000, 2000, || {
        assert_eq!(errno(fs::rename(shared.join("mine"), shared.join("yours"))), libc::EPERM);
    });
}

pub(crate) fn groups(dir: &Path, _: &Has) {
    let folder = dir.join("folder");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, None, Some(1234)).expect("given to a group");
    mode(&folder, 0o2777);
    fs::write(folder.join("file"), "").expect("a file");
    somebody(1000, 1000, || fs::create_dir(folder.join("below")).expect("a folder"));
    assert_eq!(fs::metadata(folder.join("file")).expect("known").gid(), 1234);
    let below = fs::metadata(folder.join("below")).expect("known");
    assert_eq!((below.uid(), below.gid(), below.mode() & 0o2000), (1000, 1234, 0o2000));
}

pub(crate) fn modesty(dir: &Path, has: &Has) {
    let path = dir.join("file");
    let privileged = || {
        fs::write(&path, "x").expect("a file");
        chown(&path, Some(1000), Some(1000)).expect("given away");
        mode(&path, 0o6777);
        assert_eq!(mode_of(&path), 0o6777);
    };
    privileged();
    somebody(2000, 2000, || {
        File::options().append(true).open(&path).expect("open").write_all(b"y").expect("written");
    });
    let modest = |what| assert!(!has.has(Has::MODESTY) || mode_of(&path) == 0o777, "{what}");
    modest("written");
    privileged();
    somebody(2000, 2000, || File::options().write(true).open(&path).expect("open").set_len(0).expect("cut"));
    modest("cut");
    privileged();
    chown(&path, Some(2000), None).expect("given away");
    assert_eq!(mode_of(&path), 0o777, "given away");
}
