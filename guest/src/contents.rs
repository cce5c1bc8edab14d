//! What is in the initrd.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use guest_kernel::elf::Elf;

use crate::archive::Archive;
use crate::modules::Module;

/// The modules that a sandbox may need, where the kernel has them as modules; what they need comes with them.
pub const DEFAULT_MODULES: [&str; 16] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_balloon",
    "ext4",
    "vsock",
    "vmw_vsock_virtio_transport",
    "fuse",
    "virtiofs",
    "overlay",
    "button",
];

/// Those of them that are loaded at boot; the others wait for a device or a mount (`modprobe`).
pub const LOADED_AT_BOOT: [&str; 4] = ["virtio_pci", "virtio_mmio", "virtio_console", "virtio_rng"];

const BUSYBOX_PLACES: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
const PT_INTERP: u32 = 3;
const FOLDERS: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("kiwi", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];
/// The kernel opens the first before our init runs.
const DEVICES: [(&str, (u32, u32)); 2] = [("dev/console", (5, 1)), ("dev/null", (1, 3))];
const FILES: [(&str, &str); 3] = [
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
];
/// Applets that must not stand where something of ours does.
const NOT_LINKED: [&str; 3] = ["bin/busybox", "sbin/init", "init"];

/// Why a program can't go into the image.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The host has no busybox.
    #[error("there is no busybox on this host: apt-get install busybox-static")]
    NoBusybox,
    /// It would look for libraries that the guest does not have.
    #[error("{path} needs shared libraries, which the guest does not have: {cure}")]
    Dynamic {
        /// The program.
        path: PathBuf,
        /// What to do.
        cure: &'static str,
    },
    /// It can't be read.
    #[error("{path} can't be read: {cure}")]
    Read {
        /// The program.
        path: PathBuf,
        /// What to do.
        cure: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It did not tell its applets.
    #[error("{0} does not list its applets (busybox --list-full)")]
    Applets(PathBuf),
}

const INSTALL_BUSYBOX: &str = "apt-get install busybox-static";
const BUILD_INIT: &str = "build it (cargo build -p guest-init) or name it with --init";

/// Everything but modules and command: folders, devices, init, busybox and its links.
pub(crate) fn base(init: &Path, busybox: Option<&Path>) -> Result<Archive, ContentsError> {
    let mut archive = Archive::new();
    FOLDERS.iter().for_each(|(path, mode)| archive.directory(path, *mode));
    DEVICES.iter().for_each(|(path, numbers)| archive.char_device(path, *numbers));
    FILES.iter().for_each(|(path, text)| archive.file(path, 0o644, *text));
    archive.file("init", 0o755, static_program(init, BUILD_INIT)?);
    add_busybox(&mut archive, &place_of_busybox(busybox)?)?;
    Ok(archive)
}

/// Modules under `/lib/modules`, the lists that modprobe reads, and `/kiwi/modules` for our init.
pub(crate) fn add_modules(archive: &mut Archive, release: &str, modules: &[Module], load: &[String]) {
    let folder = format!("lib/modules/{release}");
    let path_of = |name: &str| modules.iter().find(|module| module.name == name).map(|module| &module.path);
    let (mut needs, mut aliases) = (String::new(), String::new());
    for module in modules {
        archive.file(&format!("{folder}/{}", module.path), 0o644, module.content.as_slice());
        // Nearest first, as depmod writes them: modprobe inserts them from the end.
        let paths: Vec<_> = all_needs(module, modules).into_iter().filter_map(path_of).cloned().collect();
        needs += format!("{}: {}", module.path, paths.join(" ")).trim_end();
        needs += "\n";
        for alias in module.aliases() {
            aliases += &format!("alias {alias} {}\n", module.name);
        }
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, needs);
    archive.file(&format!("{folder}/modules.alias"), 0o644, aliases);
    let lines = load.iter().filter_map(|name| path_of(name)).map(|path| format!("/{folder}/{path}\n"));
    archive.file("kiwi/modules", 0o644, lines.collect::<String>());
}

/// All that a module needs, directly or not, the last to be loaded first. `modules` is in load order.
fn all_needs<'a>(module: &Module, modules: &'a [Module]) -> Vec<&'a str> {
    let mut wanted: Vec<&str> = module.needs.iter().map(String::as_str).collect();
    let mut out = Vec::new();
    for candidate in modules.iter().rev() {
        if wanted.contains(&candidate.name.as_str()) && !out.contains(&candidate.name.as_str()) {
            out.push(candidate.name.as_str());
            wanted.extend(candidate.needs.iter().map(String::as_str));
        }
    }
    out
}

pub(crate) fn place_of_busybox(given: Option<&Path>) -> Result<PathBuf, ContentsError> {
    let given = given.map(Path::to_owned);
    let found = || BUSYBOX_PLACES.iter().map(PathBuf::from).find(|path| path.is_file());
    given.or_else(found).ok_or(ContentsError::NoBusybox)
}

fn add_busybox(archive: &mut Archive, busybox: &Path) -> Result<(), ContentsError> {
    let content = static_program(busybox, INSTALL_BUSYBOX)?;
    let listing = Process::new(busybox).arg("--list-full").output();
    let listing = listing.ok().filter(|listing| listing.status.success());
    let listing = listing.and_then(|listing| String::from_utf8(listing.stdout).ok());
    let listing = listing.ok_or_else(|| ContentsError::Applets(busybox.to_owned()))?;
    for applet in listing.lines().filter(|applet| !NOT_LINKED.contains(applet)) {
        archive.link(applet, "/bin/busybox");
    }
    archive.file("bin/busybox", 0o755, content);
    Ok(())
}

/// A program's bytes, if it runs without shared libraries.
fn static_program(path: &Path, cure: &'static str) -> Result<Vec<u8>, ContentsError> {
    let content = fs::read(path);
    let content = content.map_err(|source| ContentsError::Read { path: path.to_owned(), cure, source })?;
    let dynamic =
        Elf::parse(&content).is_ok_and(|elf| elf.segments().iter().any(|part| part.kind == PT_INTERP));
    if dynamic { Err(ContentsError::Dynamic { path: path.to_owned(), cure }) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, needs: &[&str]) -> Module {
        let needs = needs.iter().map(|name| (*name).to_owned()).collect();
        Module { name: name.into(), path: format!("kernel/{name}.ko"), needs, content: Vec::new() }
    }

    #[test]
    fn needs_are_listed_nearest_first_through_all_levels() {
        let modules = [module("virtio", &[]), module("ring", &["virtio"]), module("pci", &["ring"])];
        assert_eq!(all_needs(&modules[2], &modules), ["ring", "virtio"]);
        assert!(all_needs(&modules[0], &modules).is_empty());
    }

    #[test]
    fn only_the_modules_to_load_are_listed_for_init() {
        let mut archive = Archive::new();
        let modules = [module("virtio", &[]), module("ring", &["virtio"]), module("pci", &["ring"])];
        add_modules(&mut archive, "6.1", &modules, &["virtio".into(), "ring".into()]);
        let bytes = archive.to_bytes().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("/lib/modules/6.1/kernel/virtio.ko\n/lib/modules/6.1/kernel/ring.ko\n"));
        assert!(!text.contains("/lib/modules/6.1/kernel/pci.ko\n"));
        assert!(text.contains("kernel/pci.ko: kernel/ring.ko kernel/virtio.ko\n"));
        assert!(text.contains("kernel/virtio.ko:\n"));
    }

    #[test]
    fn a_missing_busybox_says_how_to_get_it() {
        let error = add_busybox(&mut Archive::new(), Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("apt-get install busybox-static"), "{error}");
    }
}
