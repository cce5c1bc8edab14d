//! Mounts and modules: what must be there before anything runs.

use std::ffi::{CStr, CString, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{complain, sys};

const MODULES: &str = "/kiwi/modules";
/// Type, place and options. The folders are in the image, except those in a file system mounted before.
const MOUNTS: [(&CStr, &CStr, &CStr); 7] = [
    (c"proc", c"/proc", c""),
    (c"sysfs", c"/sys", c""),
    (c"devtmpfs", c"/dev", c"mode=0755"),
    (c"devpts", c"/dev/pts", c"mode=0620,gid=5,ptmxmode=0666"),
    (c"tmpfs", c"/dev/shm", c"mode=1777"),
    (c"tmpfs", c"/run", c"mode=0755"),
    (c"tmpfs", c"/tmp", c"mode=1777"),
];
/// What programs expect in /dev and devtmpfs does not make.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts everything; what fails is said and left out.
pub(crate) fn mount_all() {
    for (kind, place, options) in MOUNTS {
        let made = sys::make_folder(place).and_then(|()| sys::mount(kind, kind, place, options));
        // Busy: the kernel mounted it before us (CONFIG_DEVTMPFS_MOUNT).
        if let Err(error) = made.or_else(|error| is(error, libc::EBUSY)) {
            complain(&format!("can't mount {}", place.to_string_lossy()), &error);
        }
    }
    for (target, link) in LINKS {
        let _ = std::os::unix::fs::symlink(target, link);
    }
}

/// Mounts file systems of devices: type, source, place. What fails is said, and the command finds an empty folder.
pub(crate) fn mount_ordered(mounts: &[[OsString; 3]]) {
    for mount in mounts {
        let [kind, source, place] = mount;
        if let Err(error) = mount_one(mount) {
            let (kind, source, place) = (kind.display(), source.display(), place.display());
            complain(&format!("can't mount {source} ({kind}) at {place}"), &error);
        }
    }
}

fn mount_one([kind, source, place]: &[OsString; 3]) -> io::Result<()> {
    fs::create_dir_all(place)?;
    let [name, source, place] = [kind, source, place].map(|part| CString::new(part.as_bytes()));
    let (name, source, place) = (name?, source?, place?);
    // A file system's driver is a module on most kernels; where it is built in there is none, which is as good.
    let mut modprobe = Command::new("/sbin/modprobe");
    let _ = modprobe.arg(kind).stdout(Stdio::null()).stderr(Stdio::null()).status();
    sys::mount(&name, &source, &place, c"")
}

/// Loads the listed modules; one that fails is said, and the rest are tried.
pub(crate) fn load_modules() {
    let list = fs::read_to_string(MODULES).unwrap_or_default();
    for path in list.lines().filter(|line| !line.is_empty()) {
        if let Err(error) = load(Path::new(path)) {
            complain(&format!("can't load the module {path}"), &error);
        }
    }
}

fn load(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // Already there: a built-in driver or an earlier line.
    sys::load_module(&file).or_else(|error| is(error, libc::EEXIST))
}

/// Takes one errno for success.
fn is(error: io::Error, accepted: i32) -> io::Result<()> {
    if error.raw_os_error() == Some(accepted) { Ok(()) } else { Err(error) }
}
