//! What an image was made of, noted beside it: whether a build would make the same again, without building.
//!
//! The note has times of files in it, so it is no part of what two builds have in common.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::build::Spec;
use crate::contents;
use crate::manifest::Manifest;

const FILE: &str = "makings";

/// The image in the folder `out`, if it is whole and made of what `spec` names, as that is now.
pub fn current(spec: &Spec, out: &Path) -> Option<Manifest> {
    let noted = fs::read_to_string(out.join(FILE)).ok()?;
    if noted != of(spec) {
        return None;
    }
    let manifest: Manifest = serde_json::from_slice(&fs::read(out.join("manifest.json")).ok()?).ok()?;
    let has = |name: &str, size| fs::metadata(out.join(name)).is_ok_and(|file| file.len() == size);
    let whole = has(&manifest.kernel, manifest.kernel_bytes) && has("initrd", manifest.initrd_bytes);
    whole.then_some(manifest)
}

/// What `spec` names: words, and the sizes and times of files. A file that is missing is noted as missing.
pub(crate) fn of(spec: &Spec) -> String {
    let Spec { source, modules, with_modules, init, busybox, command, compression } = spec;
    let mut text = format!("guest {}\n", env!("CARGO_PKG_VERSION"));
    text += &format!("{} {modules:?} {with_modules} {command:?} {compression:?}\n", source.release);
    let busybox = contents::place_of_busybox(busybox.as_deref()).unwrap_or_default();
    for path in [&source.kernel, &source.modules, init, &busybox] {
        text += &format!("{path:?} {:?}\n", stamp(path));
    }
    text
}

fn stamp(path: &PathBuf) -> Option<(u64, SystemTime)> {
    let file = fs::metadata(path).ok()?;
    Some((file.len(), file.modified().ok()?))
}

/// Forgets what the image in `out` was made of: it is about to change.
pub(crate) fn forget(out: &Path) -> io::Result<()> {
    match fs::remove_file(out.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Notes what the image in `out` is made of.
pub(crate) fn note(out: &Path, makings: &str) -> io::Result<()> {
    fs::write(out.join(FILE), makings)
}
