//! What POSIX and Linux promise of files, checked in the guest, in the folder that is given: see tests/tests/fs_posix.rs.
//!
//! ```text
//! posix probe FOLDER             on the host: says in words what its file system has of what not all have
//! posix check FOLDER WORDS…      in the guest: everything, with what those words say
//! posix random FOLDER SECONDS SEED…   in the guest: reads, writes, mappings and lengths against a model, for so long
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a check says what it expects by failing
#![allow(clippy::cast_possible_truncation)] // numbers of its own, all small

mod acl;
mod data;
mod names;
mod random;
mod rights;

use std::fmt::Debug;
use std::fs::{self, File};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, fallocate};
use tests::files::set_attribute;

/// What the host's file system has, of what not all have.
pub(crate) struct Has(Vec<String>);

impl Has {
    /// Users' extended attributes.
    const ATTRIBUTES: &str = "attributes";
    /// ACLs.
    const ACLS: &str = "acls";
    /// Ranges that are made zeros.
    const ZEROES: &str = "zeroes";
    /// A daemon that takes set-user-id bits away when somebody else writes; not asked of the host.
    const MODESTY: &str = "modesty";

    fn probe(folder: &Path) -> Self {
        let path = folder.join("probe");
        let file = File::create(&path).expect("a file");
        let zero = fallocate(&file, FallocateFlags::FALLOC_FL_ZERO_RANGE, 0, 4096);
        let all = [
            (Self::ATTRIBUTES, set_attribute(&path, "user.probe", b"x").is_ok()),
            (Self::ACLS, set_attribute(&path, acl::ACCESS, &acl::of_mode(0o640)).is_ok()),
            (Self::ZEROES, zero.is_ok()),
        ];
        fs::remove_file(&path).expect("removed");
        Self(all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect())
    }

    fn has(&self, what: &str) -> bool {
        self.0.iter().any(|word| word == what)
    }
}

type Check = fn(&Path, &Has);

const CHECKS: [(&str, Check); 19] = [
    ("a file is there once", names::exclusive),
    ("a file that is unlinked lives while it is open", names::unlinked),
    ("a name moves onto another, or not, or they change places", names::renaming),
    ("a folder moves onto an empty one, and what it leaves can be a whiteout", names::renaming_folders),
    ("links are counted", names::links),
    ("a folder that is not empty stays", names::folders),
    ("a file without a name can be given one, or is refused", names::nameless),
    ("appending is at the end, whoever else appends", data::appending),
    ("a file has the length that it is given", data::lengths),
    ("holes can be made and found", data::holes),
    ("space is given and taken as asked, or refused", data::space),
    ("locks keep others out", data::locks),
    ("a file system knows its size", data::sizes),
    ("extended attributes come back", rights::attributes),
    ("users and groups have what is theirs", rights::users),
    ("a folder's group is its files'", rights::groups),
    ("who writes takes the rights of a set-user-id file away", rights::modesty),
    ("an ACL lets in whom it names", acl::check),
    ("random reads, writes, mappings and lengths agree with a model", random::check),
];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["probe", folder] => println!("{}", Has::probe(Path::new(folder)).0.join(" ")),
        ["check", folder, ref has @ ..] => {
            check(Path::new(folder), &Has(has.iter().map(|word| (*word).to_owned()).collect()));
        }
        ["random", folder, seconds, ref seeds @ ..] => {
            let seconds = Duration::from_secs(seconds.parse().expect("a number"));
            for seed in seeds {
                let (file, end) = (PathBuf::from(folder).join("random"), Instant::now() + seconds);
                // A machine with other things to do shall have done a little of everything, too.
                let over = |steps| steps >= 100 && Instant::now() >= end;
                let done = random::run(&file, seed.parse().expect("a number"), over);
                println!("{done}");
                fs::remove_file(file).expect("removed");
            }
        }
        _ => panic!("probe, check or random; not {words:?}"),
    }
}

fn check(place: &Path, has: &Has) {
    for (n, (name, check)) in CHECKS.into_iter().enumerate() {
        // Told before, for a check that hangs.
        println!("{name}");
        let begun = Instant::now();
        let folder = place.join(format!("check{n}"));
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("a mode");
        check(&folder, has);
        fs::remove_dir_all(&folder).expect("it can be removed");
        println!("  after {} ms", begun.elapsed().as_millis());
    }
    println!("all is as it should be");
}

/// The error that a call must have ended with.
pub(crate) fn errno<T: Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("it is refused").raw_os_error().expect("by the kernel")
}

/// A file for reading and writing, made if it is not there.
pub(crate) fn open(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o644).open(path).expect("a file")
}
