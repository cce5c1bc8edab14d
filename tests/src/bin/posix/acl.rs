//! ACLs, as the kernel has them in extended attributes (linux/posix_acl_xattr.h).

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tests::files::{attribute, remove_attribute, set_attribute};

use super::rights::{mode, somebody};
use super::{Has, errno};

/// Of a file, and of a folder for what will be made in it.
pub(crate) const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
/// The number of an entry that names nobody.
const NOBODY: u32 = u32::MAX;

type Entry = (u16, u16, u32);

fn acl(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What a mode says, as an ACL.
pub(crate) fn of_mode(mode: u16) -> Vec<u8> {
    let rights = |shift: u16| mode >> shift & 7;
    acl(&[(USER_OBJ, rights(6), NOBODY), (GROUP_OBJ, rights(3), NOBODY), (OTHER, rights(0), NOBODY)])
}

/// Of a file that is its owner's alone, but for user 1000, who may read and write, and group 3000, which may read.
fn named(mask: u16) -> [Entry; 6] {
    [
        (USER_OBJ, 6, NOBODY),
        (USER, 6, 1000),
        (GROUP_OBJ, 0, NOBODY),
        (GROUP, 4, 3000),
        (MASK, mask, NOBODY),
        (OTHER, 0, NOBODY),
    ]
}

pub(crate) fn check(dir: &Path, has: &Has) {
    let file = dir.join("file");
    fs::write(&file, "secret").expect("a file");
    mode(&file, 0o600);
    if !has.has(Has::ACLS) {
        return assert_eq!(errno(set_attribute(&file, ACCESS, &acl(&named(6)))), libc::EOPNOTSUPP);
    }
    lets_in(&file);
    let folder = dir.join("folder");
    fs::create_dir(&folder).expect("a folder");
    is_inherited(&folder);
}

fn lets_in(file: &Path) {
    set_attribute(file, ACCESS, &acl(&named(6))).expect("set");
    assert_eq!(attribute(file, ACCESS).expect("read"), acl(&named(6)));
    let reads = |user, group| {
        let mut reads = false;
        somebody(user, group, || reads = File::open(file).is_ok());
        reads
    };
    let writes = |user, group| {
        let mut writes = false;
        somebody(user, group, || writes = File::options().append(true).open(file).is_ok());
        writes
    };
    assert!(reads(1000, 1000) && writes(1000, 1000), "the user who is named");
    assert!(reads(2000, 3000) && !writes(2000, 3000), "the group that is named");
    assert!(!reads(2000, 2000) && !writes(2000, 2000), "anybody else");
    assert_eq!(fs::metadata(file).expect("known").mode() & 0o777, 0o660, "the mask is the group's rights");
    mode(file, 0o640);
    assert_eq!(attribute(file, ACCESS).expect("read"), acl(&named(4)), "and the other way around");
    assert!(reads(1000, 1000) && !writes(1000, 1000), "the mask takes away");
    somebody(1000, 1000, || {
        assert_eq!(errno(set_attribute(file, ACCESS, &acl(&named(6)))), libc::EPERM, "it is not theirs");
    });
    assert_eq!(errno(set_attribute(file, ACCESS, &acl(&named(6)[1..]))), libc::EINVAL, "nobody is the owner");
    assert_eq!(errno(set_attribute(file, DEFAULT, &acl(&named(6)))), libc::EACCES, "no folder");
    remove_attribute(file, ACCESS).expect("removed");
    assert!(!reads(1000, 1000));
}

fn is_inherited(folder: &Path) {
    set_attribute(folder, DEFAULT, &acl(&named(7))).expect("set");
    let (file, below) = (folder.join("file"), folder.join("below"));
    fs::write(&file, "").expect("a file");
    fs::create_dir(&below).expect("a folder");
    assert_eq!(attribute(&below, DEFAULT).expect("read"), acl(&named(7)));
    // The mask is as tight as the mode that the file was made with.
    assert_eq!(attribute(&file, ACCESS).expect("read"), acl(&named(6)));
    assert_eq!(fs::metadata(&file).expect("known").mode() & 0o777, 0o660, "the umask has no part in it");
    somebody(1000, 1000, || fs::write(&file, "by another").expect("allowed"));
    assert_eq!(fs::read(&file).expect("read"), b"by another");
}
