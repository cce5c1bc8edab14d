//! The terminal of the command.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::{complain, sys};

const VIRTIO_CONSOLE: &str = "/dev/hvc0";
const CANDIDATES: [&str; 3] = [VIRTIO_CONSOLE, "/dev/ttyS0", "/dev/console"];
const VIRTIO_CONSOLE_DRIVER: &str = "/sys/bus/virtio/drivers/virtio_console";
/// A multiport console names its ports by messages, some time after its driver was loaded.
const PATIENCE: u32 = 200;

/// Opens the first terminal there is and makes it ours: the session's controlling terminal, raw unless
/// `interactive`.
///
/// The session leader is process 1 and not the command: a leader that exits hangs its terminal up, and that
/// discards output still on its way.
pub(crate) fn open(interactive: bool) -> Option<File> {
    wait_for_virtio_console();
    let terminal = CANDIDATES.iter().find_map(|path| open_one(path))?;
    sys::take_terminal(&terminal);
    let set = if interactive { sys::cook(&terminal) } else { sys::make_raw(&terminal) };
    if let Err(error) = set {
        complain("can't set the terminal's mode", &error);
    }
    Some(terminal)
}

fn open_one(path: &str) -> Option<File> {
    // NOCTTY: taking the terminal is a step of its own; NONBLOCK: a serial line must not wait for a carrier.
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()?;
    sys::set_blocking(&file);
    Some(file)
}

/// Waits a little for `/dev/hvc0` when there is a console device whose ports are not known yet.
fn wait_for_virtio_console() {
    for _ in 0..PATIENCE {
        if Path::new(VIRTIO_CONSOLE).exists() || !has_device() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn has_device() -> bool {
    let devices = fs::read_dir(VIRTIO_CONSOLE_DRIVER).into_iter().flatten().flatten();
    devices.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("virtio"))
}
