//! `manifest.json`: what an image is made of. The same inputs give the same text: no time, no host name.

use std::path::PathBuf;

/// The content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Manifest {
    /// The guest's `uname -r`.
    pub release: String,
    /// The kernel file it was made from.
    pub source: PathBuf,
    /// The kernel in the output folder: `vmlinux`, or `vmlinuz` where only the kernel can unpack itself.
    pub kernel: String,
    /// The kernel's GNU build id in hex, if it has one.
    pub build_id: Option<String>,
    /// The kernel's size in bytes.
    pub kernel_bytes: u64,
    /// The initrd's size in bytes.
    pub initrd_bytes: u64,
    /// What the initrd unpacks to, in bytes.
    pub unpacked_bytes: u64,
    /// The initrd's compression.
    pub compression: String,
    /// The modules, in load order.
    pub modules: Vec<ManifestModule>,
    /// Wanted drivers that are part of the kernel.
    pub builtin: Vec<String>,
    /// Wanted drivers that this kernel does not have.
    pub absent: Vec<String>,
}

/// A module in the image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ManifestModule {
    /// Its name.
    pub name: String,
    /// Whether init loads it at boot.
    pub loaded: bool,
}
