//! Builds the guest image: the host's kernel unpacked, and an initrd of its modules, our init and busybox.
//!
//! Contract: the same inputs give the same bytes; nothing outside the output folder (and the kernel cache) is
//! written; every error names the file and the cure.
//!
//! Life cycle:
//! 1. [`Source::find`] names a kernel, its release and its modules;
//! 2. [`build`] writes `vmlinux`, `initrd` and `manifest.json`; [`current`] tells whether that was done already;
//! 3. for each run, [`Command::segment`] gives the bytes to append to the initrd: which command to run.
//!
//! [`mark_initrd`] is for benchmarks: the smallest initrd that marks the boot and powers off.

mod archive;
mod build;
mod command;
mod compress;
mod contents;
mod makings;
mod manifest;
mod mark;
mod modinfo;
mod modules;
mod sentence;
mod source;

pub use archive::Archive;
pub use build::{BuildError, Spec, Step, build};
pub use command::{Command, Mount, command_segment};
pub use compress::Compression;
pub use contents::{ContentsError, DEFAULT_MODULES, LOADED_AT_BOOT};
pub use makings::current;
pub use manifest::{Manifest, ManifestModule};
pub use mark::{mark_init, mark_initrd};
pub use modules::{Module, ModuleError, ModuleTree};
pub use sentence::sentence;
pub use source::{Source, SourceError};
