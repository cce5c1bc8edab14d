//! Opening what is behind a console.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::pty;
use nix::sys::termios;

use super::ChardevError;

/// What is behind a console, open.
#[derive(Debug)]
pub enum Target {
    /// Nothing: output is dropped, there is no input.
    Null,
    /// A pair of descriptors: where output goes and, maybe, where input comes from.
    Stream {
        /// Takes output.
        out: OwnedFd,
        /// Gives input.
        input: Option<OwnedFd>,
    },
    /// The master side of a pseudo-terminal.
    Pty {
        /// Both directions.
        master: OwnedFd,
        /// Kept open, or the master would report a hang-up while nobody is attached.
        slave: File,
        /// Where to attach.
        path: PathBuf,
    },
    /// A listening unix socket with one client at a time, or none.
    Socket(Listener),
}

fn refused(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ChardevError {
    move |source| ChardevError::Open { what, path: path.to_owned(), source }
}

impl Target {
    /// This process's standard input and output.
    pub fn stdio() -> Result<Self, ChardevError> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        Ok(Self::Stream { out, input: Some(input) })
    }

    /// Output appended to the file at `path`.
    pub fn file(path: &Path) -> Result<Self, ChardevError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            // A FIFO without a reader would hang the open; with one it is as good as a file.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(refused("file", path))?;
        Ok(Self::Stream { out: file.into(), input: None })
    }

    /// A new pseudo-terminal in raw mode.
    pub fn pty() -> Result<Self, ChardevError> {
        let what = Path::new("/dev/ptmx");
        let open = || -> nix::Result<(OwnedFd, PathBuf)> {
            let master = pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
            pty::grantpt(&master)?;
            pty::unlockpt(&master)?;
            let path = PathBuf::from(pty::ptsname_r(&master)?);
            Ok((master.into(), path))
        };
        let (master, path) = open().map_err(|e| refused("terminal", what)(e.into()))?;
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(&path)
            .map_err(refused("terminal", &path))?;
        if let Ok(mut mode) = termios::tcgetattr(&slave) {
            termios::cfmakeraw(&mut mode);
            // A terminal that stays cooked works, if less well.
            let _ = termios::tcsetattr(&slave, termios::SetArg::TCSANOW, &mode);
        }
        Ok(Self::Pty { master, slave, path })
    }

    /// A socket listening at `path`.
    pub fn socket(path: &Path) -> Result<Self, ChardevError> {
        Listener::bind(path).map(Self::Socket)
    }
}

/// A listening socket that removes its path when dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    /// Device and inode of the path we made: it may be somebody else's by the time we go.
    made: (u64, u64),
}

impl Listener {
    fn bind(path: &Path) -> Result<Self, ChardevError> {
        let open = refused("socket", path);
        let socket = match UnixListener::bind(path) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                UnixListener::bind(path)
            }
            other => other,
        };
        let socket = socket.map_err(open)?;
        socket.set_nonblocking(true)?;
        let meta = std::fs::symlink_metadata(path)?;
        Ok(Self { socket, path: path.to_owned(), made: (meta.dev(), meta.ino()) })
    }
}

/// Removes a socket whose owner is gone; one that is answered belongs to somebody.
fn remove_stale(path: &Path) -> Result<(), ChardevError> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused_by_nobody =
        UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if is_socket && refused_by_nobody {
        std::fs::remove_file(path)?;
        return Ok(());
    }
    Err(ChardevError::InUse(path.to_owned()))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
