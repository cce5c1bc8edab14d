//! The daemon: `kiwi-virtiofsd`, which serves one directory to one virtual machine.
//!
//! 1. [`options`] understands the command line.
//! 2. The socket is made, or taken; [`sandbox`] closes the world out.
//! 3. [`fs`] is the directory as a file system; `serve` has threads serve it over vhost-user.
//! 4. When the VMM hangs up, the daemon ends with status 0.

mod bridge;
mod dax;
mod filter;
pub mod fs;
mod log;
pub mod options;
pub mod sandbox;
mod serve;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use options::{Invocation, Listen, Options, OptionsError};
use sandbox::{Inside, Sandbox, SandboxError, Side};

/// The command line is wrong.
const USAGE: u8 = 64;
/// The host lacks something, or the VMM does not keep to the protocol.
const FAILED: u8 = 69;

/// Why the daemon does not serve.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error("the socket {path} cannot be made: {source}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("descriptor {0} is no listening unix socket that this process was started with")]
    Descriptor(i32),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error("the host refused to {what}: {source}")]
    Host { what: &'static str, source: io::Error },
    #[error("the VMM does not keep to vhost-user: {0}")]
    Peer(io::Error),
}

/// Does what `words` say, the program's name left out; the process's exit status.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    match try_run(words) {
        Ok(status) => status,
        Err(why) => {
            eprintln!("kiwi-virtiofsd: {why}");
            if matches!(why, DaemonError::Options(_)) { USAGE } else { FAILED }
        }
    }
}

fn try_run(words: impl IntoIterator<Item = OsString>) -> Result<u8, DaemonError> {
    let options = match options::parse(words)? {
        Invocation::Print(text) => {
            print!("{text}");
            return Ok(0);
        }
        Invocation::Serve(options) => options,
    };
    log::begin(options.level, options.syslog);
    let sandbox = Sandbox::open(&options)?;
    let listener = listen(&options.listen)?;
    let folder = options.listen.folder();
    match sandbox.enter()? {
        Side::Outside(daemon) => {
            drop(listener);
            let status = daemon.wait()?;
            if let Some((folder, name)) = folder {
                let _ = unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir);
                // Closing it is none of this process's calls.
                std::mem::forget(folder);
            }
            Ok(status)
        }
        Side::Inside(inside) => serve(&options, inside, listener),
    }
}

fn serve(options: &Options, inside: Inside, listener: UnixListener) -> Result<u8, DaemonError> {
    inside.confine()?;
    let host = |what| move |source| DaemonError::Host { what, source };
    let Inside { root, descriptors } = inside;
    let shared = fs::Shared::new(options, root, descriptors).map_err(host("open the directory"))?;
    let service = serve::Service::new(shared, options).map_err(host("start threads"))?;
    service.serve(listener).map_err(DaemonError::Peer)?;
    Ok(0)
}

impl Listen {
    /// The folder of a socket that was made, and its name. Paths lead nowhere from outside of the sandbox, either: who
    /// changes the root does it for all processes of the mount namespace (pivot_root(2)).
    fn folder(&self) -> Option<(OwnedFd, &OsStr)> {
        let Self::Path(path) = self else { return None };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Some((open(folder, flags, Mode::empty()).ok()?, path.file_name()?))
    }
}

fn listen(at: &Listen) -> Result<UnixListener, DaemonError> {
    match at {
        Listen::Path(path) => bind(path).map_err(|source| DaemonError::Bind { path: path.clone(), source }),
        Listen::Fd(fd) => {
            let listener = sys::inherited(*fd).ok_or(DaemonError::Descriptor(*fd))?;
            let listens = getsockopt(&listener, AcceptConn).is_ok_and(|listens| listens);
            listens.then_some(listener).ok_or(DaemonError::Descriptor(*fd))
        }
    }
}

/// A socket at `path`, in the place of one that nobody listens at any more.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
        result => return result,
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}
