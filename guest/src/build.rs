//! Writes an image.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use guest_kernel::elf::Elf;
use guest_kernel::{Cache, write_sparse};

use crate::archive::Archive;
use crate::command::Command;
use crate::compress::Compression;
use crate::contents::{self, ContentsError, DEFAULT_MODULES, LOADED_AT_BOOT};
use crate::makings;
use crate::manifest::{Manifest, ManifestModule};
use crate::modules::{Module, ModuleError, ModuleTree};
use crate::source::Source;

/// What to build.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The kernel.
    pub source: Source,
    /// Modules beside [`DEFAULT_MODULES`]; these are loaded at boot, and it is an error if the kernel lacks one.
    pub modules: Vec<String>,
    /// Whether to take modules at all.
    pub with_modules: bool,
    /// The static program for `/init`.
    pub init: PathBuf,
    /// The static busybox, if not the host's.
    pub busybox: Option<PathBuf>,
    /// The command baked into the image.
    pub command: Command,
    /// The initrd's compression.
    pub compression: Compression,
}

/// Where a build is, for a progress display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Unpacking or finding the vmlinux.
    Kernel,
    /// Collecting modules.
    Modules,
    /// Collecting programs.
    Programs,
    /// Compressing the initrd.
    Initrd,
    /// Writing the files.
    Write,
}

impl Step {
    /// How many there are.
    pub const COUNT: u64 = 5;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "unpacking the kernel",
            Self::Modules => "collecting modules",
            Self::Programs => "collecting programs",
            Self::Initrd => "compressing the initrd",
            Self::Write => "writing",
        })
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The kernel's file is at fault.
    #[error(transparent)]
    Kernel(#[from] guest_kernel::Error),
    /// A module is missing or unreadable.
    #[error(transparent)]
    Modules(#[from] ModuleError),
    /// A program is missing or unusable.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// The archive could not be made.
    #[error("the initrd can't be made")]
    Initrd(#[source] io::Error),
    /// A file could not be read or written.
    #[error("{path} can't be {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// "read", "made", "written" or "written to".
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Builds the image `spec` into the folder `out` (made if need be): `vmlinux`, `initrd`, `manifest.json`, each
/// replaced whole. `progress` hears of every step as it begins.
///
/// # Errors
/// See [`BuildError`]; files of an earlier build stay as they were, or are new and whole.
pub fn build(
    spec: &Spec,
    cache: &Cache,
    out: &Path,
    mut progress: impl FnMut(Step),
) -> Result<Manifest, BuildError> {
    // Before anything is read: what changes meanwhile makes the image out of date.
    let makings = makings::of(spec);
    progress(Step::Kernel);
    let kernel = Kernel::read(&spec.source, cache)?;
    progress(Step::Modules);
    let choice = Choice::make(spec)?;
    progress(Step::Programs);
    let mut archive = contents::base(&spec.init, spec.busybox.as_deref())?;
    choice.add_to(&mut archive, &spec.source.release);
    spec.command.add_to(&mut archive);
    progress(Step::Initrd);
    let unpacked = archive.to_bytes().map_err(BuildError::Initrd)?;
    let initrd = spec.compression.compress(&unpacked).map_err(BuildError::Initrd)?;
    progress(Step::Write);
    let manifest = Manifest {
        release: spec.source.release.clone(),
        source: spec.source.kernel.clone(),
        kernel: kernel.name.to_owned(),
        build_id: kernel.build_id(),
        kernel_bytes: kernel.bytes.len() as u64,
        initrd_bytes: initrd.len() as u64,
        unpacked_bytes: unpacked.len() as u64,
        compression: spec.compression.name().to_owned(),
        modules: choice.listed(),
        builtin: choice.builtin,
        absent: choice.absent,
    };
    write_all(out, &kernel, &initrd, &manifest)?;
    makings::note(out, &makings).map_err(file_error(out, "written to"))?;
    Ok(manifest)
}

/// The kernel's bytes and the name they get.
struct Kernel {
    name: &'static str,
    bytes: Vec<u8>,
}

impl Kernel {
    fn read(source: &Source, cache: &Cache) -> Result<Self, BuildError> {
        let path = &source.kernel;
        match cache.vmlinux(path) {
            Ok(mut found) => {
                let mut bytes = Vec::new();
                found.file.read_to_end(&mut bytes).map_err(file_error(path, "read"))?;
                Ok(Self { name: "vmlinux", bytes })
            }
            // The kernel's own decompressor will do it, in the guest.
            Err(error) if error.is_fallback() => {
                Ok(Self { name: "vmlinuz", bytes: fs::read(path).map_err(file_error(path, "read"))? })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn build_id(&self) -> Option<String> {
        let elf = Elf::parse(&self.bytes).ok()?;
        Some(elf.build_id()?.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Which modules go into the image, and which of them init loads.
#[derive(Default)]
struct Choice {
    modules: Vec<Module>,
    load: Vec<String>,
    builtin: Vec<String>,
    absent: Vec<String>,
}

impl Choice {
    fn make(spec: &Spec) -> Result<Self, ModuleError> {
        if !spec.with_modules {
            return Ok(Self::default());
        }
        let tree = ModuleTree::open(&spec.source.modules, &spec.source.release)?;
        let (builtin, rest): (Vec<&str>, Vec<&str>) =
            DEFAULT_MODULES.into_iter().partition(|name| tree.is_builtin(name));
        let (here, absent): (Vec<&str>, Vec<&str>) = rest.into_iter().partition(|name| tree.has(name));
        let own = spec.modules.iter().map(String::as_str);
        let early: Vec<_> =
            LOADED_AT_BOOT.into_iter().filter(|name| here.contains(name)).chain(own).collect();
        let load = tree.closure(early.iter().copied())?.into_iter().map(|module| module.name).collect();
        // What is loaded at boot comes first here too, so that the manifest reads as the boot goes.
        let modules = tree.closure(early.into_iter().chain(here))?;
        let names = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
        Ok(Self { modules, load, builtin: names(builtin), absent: names(absent) })
    }

    fn add_to(&self, archive: &mut Archive, release: &str) {
        if !self.modules.is_empty() {
            contents::add_modules(archive, release, &self.modules, &self.load);
        }
    }

    fn listed(&self) -> Vec<ManifestModule> {
        let load: BTreeSet<_> = self.load.iter().collect();
        let listed = |module: &Module| ManifestModule {
            name: module.name.clone(),
            loaded: load.contains(&module.name),
        };
        self.modules.iter().map(listed).collect()
    }
}

fn write_all(out: &Path, kernel: &Kernel, initrd: &[u8], manifest: &Manifest) -> Result<(), BuildError> {
    fs::create_dir_all(out).map_err(file_error(out, "made"))?;
    makings::forget(out).map_err(file_error(out, "written to"))?;
    let mut text = serde_json::to_vec_pretty(manifest).map_err(|error| BuildError::Initrd(error.into()))?;
    text.push(b'\n');
    // The manifest last: where it is new, all is.
    for (name, bytes) in
        [(kernel.name, kernel.bytes.as_slice()), ("initrd", initrd), ("manifest.json", &text)]
    {
        let path = out.join(name);
        replace(&path, bytes).map_err(file_error(&path, "written"))?;
    }
    Ok(())
}

fn file_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::File { path, what, source }
}

/// Writes a file beside its place and moves it there.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = File::create(&tmp).and_then(|file| write_sparse(&file, bytes));
    let moved = written.and_then(|()| fs::rename(&tmp, path));
    moved.inspect_err(|_| {
        // Best effort: the error that counts is on its way.
        let _ = fs::remove_file(&tmp);
    })
}

#[cfg(test)]
mod tests;
