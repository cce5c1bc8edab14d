//! The kinds of virtio devices: the only list there is of them. A new device costs its own file and a line here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use devices::rate::Rates;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{self, Balloon};
use devices::virtio::block::{self, Block, Disk};
use devices::virtio::console::Console;
use devices::virtio::rng::Rng;
use virtio_fs::device::{Fs, Share};
use virtio_net::{Net, Options, Tap, Vhost};
use vsock::Vsock;

use crate::builder::BuildError;
use crate::config::{BalloonConfig, ConsoleTarget, DiskConfig, FsConfig, NetConfig, VhostMode, VmConfig};
use crate::inherit::{self, InheritError};
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
    Kind { count: |config| config.nets.len(), make: nets },
    Kind { count: |config| config.vsock.iter().count(), make: vsock },
    Kind { count: |config| config.disks.len(), make: disks },
    Kind { count: |config| config.balloon.iter().count(), make: balloon },
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

/// Limits as the devices take them; those of nothing are refused before.
fn rates(bw: Option<u64>, ops: Option<u64>) -> Rates {
    Rates { bytes: bw.and_then(NonZeroU64::new), operations: ops.and_then(NonZeroU64::new) }
}

fn console_of(config: &VmConfig) -> Option<&ConsoleTarget> {
    config.console.as_ref().filter(|target| **target != ConsoleTarget::Off)
}

fn console(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(target) = console_of(config) else { return Ok(Vec::new()) };
    let Some(chardev) = plug.chardev(target)? else { return Ok(Vec::new()) };
    let size = (*target == ConsoleTarget::Tty).then(crate::terminal::size).flatten();
    let device = Console::new(
        &chardev,
        size,
        rates(config.console_limits.bw, config.console_limits.ops),
        &plug.confinement,
    );
    let device = device.map_err(BuildError::host("make a thread"))?;
    plug.carry(chardev, "hvc0")?;
    Ok(vec![Box::new(device)])
}

fn rng(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(rng) = &config.rng else { return Ok(Vec::new()) };
    let source = entropy(&rng.src).map_err(open_error("the entropy source", &rng.src))?;
    let device = Rng::new(source, rates(rng.bw, rng.ops), &plug.confinement);
    let device = device.map_err(BuildError::host("make a thread"))?;
    Ok(vec![Box::new(device)])
}

/// A file or a device of bytes, neither of which is waited for: a FIFO that nobody writes to would hold the machine.
fn entropy(path: &Path) -> io::Result<File> {
    let source = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = source.metadata()?.file_type();
    if kind.is_file() || kind.is_char_device() {
        return Ok(source);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a file nor a character device"))
}

fn nets(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let nets = config.nets.iter().enumerate();
    nets.map(|(index, net)| Ok(Box::new(self::net(index, net, plug)?) as Box<dyn VirtioDevice>)).collect()
}

fn net(index: usize, config: &NetConfig, plug: &Plug<'_>) -> Result<Net, BuildError> {
    let given = |fd: &i32| Ok::<_, InheritError>((*fd, inherit::take(*fd)?));
    let taps = match &config.tap {
        Some(name) => Tap::open(name, config.pairs(), config.mtu)?,
        None => Tap::inherit(config.fd.iter().map(given).collect::<Result<_, _>>()?)?,
    };
    let vhost = match config.vhost {
        _ if !config.vhostfd.is_empty() => {
            Vhost::Given(config.vhostfd.iter().map(|fd| inherit::take(*fd)).collect::<Result<_, _>>()?)
        }
        VhostMode::On => Vhost::On,
        VhostMode::Off => Vhost::Off,
        VhostMode::Auto => Vhost::Auto,
    };
    let mac = config.mac.map_or_else(random_mac, |mac| Ok(mac.0));
    let mac = mac.map_err(BuildError::host("give random bytes for a network address"))?;
    let rates = rates(config.bw, config.ops);
    let options = Options { mac, mtu: config.mtu, offload: config.offload, vhost, rates };
    Ok(Net::new(index, taps, options, &plug.confinement)?)
}

/// An address of nobody's making (IEEE 802, the second bit of the first byte).
fn random_mac() -> std::io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    File::open("/dev/urandom")?.read_exact(&mut mac)?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

fn vsock(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(vsock) = &config.vsock else { return Ok(Vec::new()) };
    let device = match vsock.fd {
        Some(fd) => Vsock::from_file(vsock.cid, inherit::take(fd)?, &plug.confinement)?,
        None => Vsock::open(vsock.cid, &plug.confinement)?,
    };
    Ok(vec![Box::new(device)])
}

fn disks(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    config.disks.iter().map(|config| disk(config, plug)).collect()
}

fn disk(config: &DiskConfig, plug: &Plug<'_>) -> Result<Box<dyn VirtioDevice>, BuildError> {
    let DiskConfig { readonly, direct, ref serial, queues, .. } = *config;
    let options = block::Options { readonly, direct, serial: serial.clone() };
    let (name, disk) = match (&config.path, config.fd) {
        (None, Some(fd)) => (format!("descriptor {fd}"), Disk::new(inherit::take(fd)?, &options)),
        (path, _) => {
            let path = path.clone().unwrap_or_default();
            (path.display().to_string(), Disk::open(&path, &options))
        }
    };
    let disk = disk.map_err(|why| BuildError::Disk { name, why })?;
    let device = Block::new(disk, queues, rates(config.bw, config.ops), &plug.confinement);
    Ok(Box::new(device.map_err(BuildError::host("make a thread"))?))
}

fn balloon(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    let Some(BalloonConfig { size, deflate_on_oom, free_page_reporting }) = config.balloon else {
        return Ok(Vec::new());
    };
    let options = balloon::Options { deflate_on_oom, free_page_reporting };
    let device = Balloon::new(size, options, &plug.confinement).map_err(BuildError::host("make a thread"))?;
    Ok(vec![Box::new(device)])
}

fn shares(config: &VmConfig, plug: &mut Plug<'_>) -> Result<Devices, BuildError> {
    config.fs.iter().map(|fs| share(fs, plug)).collect()
}

fn share(config: &FsConfig, plug: &Plug<'_>) -> Result<Box<dyn VirtioDevice>, BuildError> {
    let FsConfig { queues, queue_size, dax, .. } = *config;
    let share = Share { tag: config.tag.clone(), queues, queue_size, dax };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_comes_from_files_and_devices_and_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        for path in [fifo.as_path(), folder.path()] {
            assert!(
                entropy(path).expect_err("refused").to_string().contains("neither"),
                "{}",
                path.display()
            );
        }
        let file = folder.path().join("file");
        std::fs::write(&file, "random").expect("written");
        for path in [file.as_path(), Path::new("/dev/urandom")] {
            entropy(path).expect("a source");
        }
    }
}
