//! The kinds of virtio devices: the only list there is of them. A new device costs its own file and a line here.

use std::fs::File;
use std::path::PathBuf;

use devices::virtio::VirtioDevice;
use devices::virtio::console::Console;
use devices::virtio::rng::Rng;
use virtio_fs::device::{Fs, Share};

use crate::builder::BuildError;
use crate::config::{ConsoleTarget, FsConfig, VmConfig};
use crate::inherit;
use crate::plug::Plug;

type Devices = Vec<Box<dyn VirtioDevice>>;

/// One kind.
struct Kind {
    /// How many of it a configuration asks for.
    count: fn(&VmConfig) -> usize,
    /// Makes them.
    make: fn(&VmConfig, &mut Plug<'_>) -> Result<Devices, BuildError>,
}

/// In the order in which a guest finds them.
const KINDS: &[Kind] = &[
    Kind { count: |config| console_of(config).iter().count(), make: console },
    Kind { count: |config| config.rng.iter().count(), make: rng },
    Kind { count: |config| config.fs.len(), make: shares },
];

/// How many devices `config` asks for.
pub(crate) fn count(config: &VmConfig) -> usize {
    KINDS.iter().map(|kind| (kind.count)(config)).sum()
}

/// All devices that `config` asks for.
pub(crate) fn make(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let mut devices = Vec::new();
    for kind in KINDS {
        devices.extend((kind.make)(config, plug)?);
    }
    Ok(devices)
}

fn console_of(config: &VmConfig) -> Option<&ConsoleTarget> {
    config.console.as_ref().filter(|target| **target != ConsoleTarget::Off)
}

fn console(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(target) = console_of(config) else { return Ok(Vec::new()) };
    let Some(chardev) = plug.chardev(target)? else { return Ok(Vec::new()) };
    let size = (*target == ConsoleTarget::Tty).then(crate::terminal::size).flatten();
    let device =
        Console::new(&chardev, size, &plug.confinement).map_err(BuildError::host("make a thread"))?;
    plug.carry(chardev, "hvc0")?;
    Ok(vec![Box::new(device)])
}

fn rng(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(rng) = &config.rng else { return Ok(Vec::new()) };
    let source = File::open(&rng.src).map_err(open_error("the entropy source", &rng.src))?;
    let device = Rng::new(source, &plug.confinement).map_err(BuildError::host("make a thread"))?;
    Ok(vec![Box::new(device)])
}

fn shares(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    config.fs.iter().map(|fs| share(fs, plug)).collect()
}

fn share(config: &FsConfig, plug: &Plug<'_>) -> Result<Box<dyn VirtioDevice>, BuildError> {
    let share = Share { tag: config.tag.clone(), queues: config.queues, queue_size: config.queue_size };
    let device = match (&config.socket, config.fd) {
        (Some(path), _) => Fs::connect(share, path, &plug.confinement)?,
        (None, fd) => {
            let socket = inherit::take(fd.unwrap_or(-1))?;
            Fs::from_socket(share, std::os::fd::OwnedFd::from(socket).into(), &plug.confinement)?
        }
    };
    Ok(Box::new(device))
}

fn open_error(what: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> BuildError {
    let path: PathBuf = path.to_owned();
    move |source| BuildError::Open { what, path, source }
}
