//! `kiwi-virtiofsd`: see `virtio_fs::daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(virtio_fs::daemon::run(std::env::args_os().skip(1)))
}
