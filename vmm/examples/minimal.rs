//! The smallest embedding: boots a kernel and an initrd, with the guest's serial port on this program's standard
//! streams, and waits until the guest powers off.
//!
//! ```sh
//! cargo run --example minimal -- vmlinux initrd
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use vmm::config::{BootConfig, ConsoleTarget};
use vmm::{Exit, VmBuilder, VmConfig};

fn main() -> ExitCode {
    match boot() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("minimal: {}", vmm::sentence(&*why));
            ExitCode::FAILURE
        }
    }
}

fn boot() -> Result<(), Box<dyn Error>> {
    let words: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [kernel, initrd] = words.as_slice() else { return Err("usage: minimal KERNEL INITRD".into()) };

    let config = VmConfig {
        boot: BootConfig { kernel: kernel.clone(), initrd: Some(initrd.clone()), cmdline: None },
        serial: ConsoleTarget::Stdio,
        ..VmConfig::default()
    };
    vmm::validate::check(&config)?;

    let running = VmBuilder::from(config).build()?.start()?;
    match running.wait(None, None)? {
        Exit::Shutdown { guest_status } => {
            eprintln!("the guest powered off; its command's status: {guest_status:?}");
            Ok(())
        }
        other => Err(other.to_string().into()),
    }
}
