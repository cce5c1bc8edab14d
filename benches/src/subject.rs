//! The VMMs that are compared, each with its words for the same guest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What is booted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Guest {
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initrd, whose init writes the marker and powers off.
    pub initrd: PathBuf,
    /// The whole command line.
    pub cmdline: String,
    /// Memory in MiB.
    pub mib: u32,
}

/// A VMM and its words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// What the tables call it.
    pub name: String,
    /// Program and arguments.
    pub words: Vec<String>,
}

impl Subject {
    /// Our own.
    pub fn kiwi(name: &str, vmm: &Path, guest: &Guest) -> Self {
        let mut words = vec![vmm.display().to_string()];
        words.extend(["--kernel".to_owned(), guest.kernel.display().to_string()]);
        words.extend(["--initrd".to_owned(), guest.initrd.display().to_string()]);
        words.extend(["--cmdline".to_owned(), guest.cmdline.clone()]);
        words.extend(["--memory".to_owned(), format!("{}M", guest.mib)]);
        words.extend(["--serial".to_owned(), "stdio".to_owned()]);
        Self { name: name.to_owned(), words }
    }

    /// QEMU with its lightest machine for PCs. Without its clock a stock kernel would poll an absent one for seconds.
    pub fn microvm(qemu: &[String], guest: &Guest) -> Self {
        Self::qemu("QEMU microvm", qemu, "microvm,rtc=on", guest)
    }

    /// QEMU with the machine most of its users have.
    pub fn q35(qemu: &[String], guest: &Guest) -> Self {
        Self::qemu("QEMU q35", qemu, "q35", guest)
    }

    fn qemu(name: &str, qemu: &[String], machine: &str, guest: &Guest) -> Self {
        let mut words = qemu.to_vec();
        words.extend(["-M", machine, "-accel", "kvm", "-cpu", "host", "-smp", "1"].map(str::to_owned));
        words.extend(["-m".to_owned(), guest.mib.to_string()]);
        words.extend(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"].map(str::to_owned));
        words.extend(["-serial", "stdio"].map(str::to_owned));
        words.extend(["-kernel".to_owned(), guest.kernel.display().to_string()]);
        words.extend(["-initrd".to_owned(), guest.initrd.display().to_string()]);
        words.extend(["-append".to_owned(), guest.cmdline.clone()]);
        Self { name: name.to_owned(), words }
    }
}
