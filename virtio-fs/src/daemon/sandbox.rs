//! What keeps the daemon in its directory, whatever becomes of it. On always; nothing switches it off.
//!
//! 1. [`Sandbox::open`] opens what is outside: the directory.
//! 2. [`Sandbox::enter`] takes user, mount, process, network and IPC namespaces of its own, and splits the process in
//!    two. The first waits for the second, or for a signal that ends both, and does nothing else.
//! 3. The second is process 1 in there. Its root becomes the shared directory, and the rest of the host's files are
//!    gone; it keeps the few capabilities that requests need, and those only towards files, for the user namespace has
//!    none over the host; it can gain no privilege any more; it dies with the first; it is confined to its system calls.
//!
//! Run by root, numbers of users and groups are the same inside and outside. Run by anybody else, that user is the
//! guest's root, and no other user's file can be made or given away.

mod sys;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, fchdir, getegid, geteuid, pipe, pivot_root};

use super::filter;
use super::options::Options;

/// Enough for a tree of a million files.
const DESCRIPTORS: u64 = 1_000_000;

/// What requests need: to be another user while a file is made, and root's rights over files.
const KEPT: [Capability; 7] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETFCAP,
];

/// Why there is no sandbox, and so no daemon.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The directory cannot be shared.
    #[error("the directory {path} cannot be shared: {source}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// The host refused a part of it.
    #[error("the sandbox cannot be made, for the host refused to {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host answered.
        source: io::Error,
    },
}

fn refused<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SandboxError {
    move |source| SandboxError::Host { what, source: source.into() }
}

/// A sandbox to be entered.
#[derive(Debug)]
pub struct Sandbox {
    shared: PathBuf,
    capabilities: HashSet<Capability>,
}

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one that waits.
    Outside(Outside),
    /// The daemon, in its sandbox.
    Inside(Inside),
}

/// The daemon, from the outside.
#[derive(Debug)]
pub struct Outside(Pid);

impl Outside {
    /// Confines this process to waiting, and waits for the daemon's end, which a signal to this process is, too; its
    /// status.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn wait(self) -> Result<u8, SandboxError> {
        filter::confine_to_waiting().map_err(refused("confine a process"))?;
        Ok(wait_or_end(self.0))
    }
}

/// What the daemon has of the outside.
#[derive(Debug)]
pub struct Inside {
    /// The shared directory, which is the root, too.
    pub root: OwnedFd,
    /// `/proc/self/fd`, by which descriptors are opened again.
    pub descriptors: OwnedFd,
}

impl Sandbox {
    /// A sandbox around the directory of `options`. Sets the process's limits.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn open(options: &Options) -> Result<Self, SandboxError> {
        let path = &options.shared;
        let here = |source| SandboxError::Directory { path: path.clone(), source };
        let shared = path.canonicalize().map_err(here)?;
        if !shared.is_dir() {
            return Err(here(io::ErrorKind::NotADirectory.into()));
        }
        limit(options.descriptors).map_err(refused("limit its descriptors"))?;
        let mut capabilities = HashSet::from(KEPT);
        for (add, capability) in &options.capabilities {
            if *add {
                capabilities.insert(*capability)
            } else {
                capabilities.remove(capability)
            };
        }
        Ok(Self { shared, capabilities })
    }

    /// Splits the process; see the module's page. Only to be called while it has one thread.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn enter(self) -> Result<Side, SandboxError> {
        let signals = refused("hold signals back");
        let before = SigSet::thread_get_mask().map_err(&signals)?;
        // From here on, or a signal between the two processes' start and the first one's wait would end only that.
        awaited().thread_block().map_err(&signals)?;
        take_namespaces()?;
        let (outside, here) = pipe().map_err(refused("make a pipe"))?;
        match sys::fork().map_err(refused("start a process"))? {
            Some(daemon) => {
                // Closed by the end of this process, and not before.
                let _ = here.into_raw_fd();
                Ok(Side::Outside(Outside(daemon)))
            }
            None => {
                drop(here);
                before.thread_set_mask().map_err(&signals)?;
                self.settle(&outside).map(Side::Inside)
            }
        }
    }

    fn settle(self, outside: &OwnedFd) -> Result<Inside, SandboxError> {
        let tie = refused("tie two processes together");
        sys::die_with_parent().map_err(&tie)?;
        // The first one may have ended before; in here its number says nothing, being of another namespace.
        if has_ended(outside).map_err(refused("look for the first process"))? {
            return Err(tie(io::ErrorKind::BrokenPipe.into()));
        }
        nix::sys::stat::umask(Mode::empty());
        let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptors =
            open("/proc/self/fd", folder, Mode::empty()).map_err(refused("open /proc/self/fd"))?;
        let root = change_root(&self.shared).map_err(refused("make the directory its root"))?;
        self.drop_rights().map_err(|source| SandboxError::Host { what: "drop capabilities", source })?;
        prctl::set_no_new_privs().map_err(refused("renounce privileges"))?;
        prctl::set_dumpable(false).map_err(refused("hide its memory"))?;
        Ok(Inside { root, descriptors })
    }

    fn drop_rights(&self) -> io::Result<()> {
        let gone = caps::all().into_iter().filter(|capability| !self.capabilities.contains(capability));
        for capability in gone {
            // One that this kernel does not know cannot be had.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
        let set = |which, rights: &HashSet<_>| caps::set(None, which, rights).map_err(io::Error::other);
        let none = HashSet::new();
        set(CapSet::Inheritable, &none)?;
        set(CapSet::Effective, &none)?;
        set(CapSet::Permitted, &self.capabilities)?;
        set(CapSet::Effective, &self.capabilities)
    }
}

impl Inside {
    /// Confines the process to its system calls; the last thing before requests are taken.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn confine(&self) -> Result<(), SandboxError> {
        filter::confine().map_err(refused("confine the daemon"))
    }
}

fn limit(wanted: Option<u64>) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let want = wanted.unwrap_or(DESCRIPTORS);
    // Root may raise the limit, anybody else has what there is.
    match setrlimit(Resource::RLIMIT_NOFILE, want, want) {
        Err(_) if wanted.is_none() => setrlimit(Resource::RLIMIT_NOFILE, hard.min(want), hard.min(want))?,
        result => result?,
    }
    Ok(())
}

/// Takes namespaces; a helper that stays outside says who is who in there.
fn take_namespaces() -> Result<(), SandboxError> {
    let (tell, told) = pipe().map(|(read, write)| (write, read)).map_err(refused("make a pipe"))?;
    let (user, group, parent) = (geteuid().as_raw(), getegid().as_raw(), Pid::this());
    match sys::fork().map_err(refused("start a process"))? {
        None => {
            drop(tell);
            // One byte: the namespace is there. None: it is not, and there is nothing to do.
            let there = nix::unistd::read(&told, &mut [0]) == Ok(1);
            let done = there && write_maps(parent, user, group).is_ok();
            sys::leave(i32::from(!done))
        }
        Some(helper) => {
            drop(told);
            let all = CloneFlags::CLONE_NEWUSER
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWPID
                | CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWIPC;
            let taken = unshare(all).map_err(refused("make namespaces (see /proc/sys/user)"));
            if taken.is_ok() {
                nix::unistd::write(&tell, &[0]).map_err(refused("write to a pipe"))?;
            }
            drop(tell);
            let status = wait(helper);
            taken?;
            match status {
                0 => Ok(()),
                _ => Err(refused("map users and groups")(io::Error::from(io::ErrorKind::PermissionDenied))),
            }
        }
    }
}

/// Who is who: everybody is himself for root, and there is only root, who is `user`, for others.
fn write_maps(pid: Pid, user: u32, group: u32) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{pid}/{name}");
    if user == 0 {
        std::fs::write(file("uid_map"), "0 0 4294967295")?;
        return std::fs::write(file("gid_map"), "0 0 4294967295");
    }
    std::fs::write(file("setgroups"), "deny")?;
    std::fs::write(file("uid_map"), format!("0 {user} 1"))?;
    std::fs::write(file("gid_map"), format!("0 {group} 1"))
}

/// Signals that end the daemon, and the one that tells that it has ended.
fn awaited() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

/// Whether the pipe's other end is closed.
fn has_ended(pipe: &OwnedFd) -> nix::Result<bool> {
    let mut ends = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    Ok(poll(&mut ends, PollTimeout::ZERO)? > 0)
}

/// As [`wait`], but ends the process first when this one is told to end; 128 and that signal then.
fn wait_or_end(daemon: Pid) -> u8 {
    loop {
        match awaited().wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                // Process 1 of a namespace takes no other signal.
                let _ = kill(daemon, Signal::SIGKILL);
                let _ = waitpid(daemon, None);
                return by_signal(signal);
            }
            Err(_) => return wait(daemon),
        }
        // Its end is one of the reasons for the signal.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        if !matches!(waitid(Id::Pid(daemon), look), Ok(WaitStatus::StillAlive)) {
            return wait(daemon);
        }
    }
}

fn by_signal(signal: Signal) -> u8 {
    u8::try_from(signal as i32).unwrap_or(127).saturating_add(128)
}

/// Waits for a process; its status, or 128 and the signal that ended it, as a shell has it.
fn wait(pid: Pid) -> u8 {
    loop {
        match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, status)) => return u8::try_from(status).unwrap_or(u8::MAX),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                eprintln!("kiwi-virtiofsd: the daemon was ended by {signal}; SIGSYS is its seccomp filter");
                return by_signal(signal);
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return u8::MAX,
        }
    }
}

/// Makes `shared` the root, with what is mounted below it now and later, and lets go of everything else.
fn change_root(shared: &Path) -> nix::Result<OwnedFd> {
    let none: Option<&str> = None;
    // What the host mounts below the directory shall come here, and nothing go there.
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    mount(Some(shared), shared, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old = open("/", folder, Mode::empty())?;
    let new = open(shared, folder, Mode::empty())?;
    fchdir(&new)?;
    // The old root comes to lie over the new one, from where it is taken away.
    pivot_root(".", ".")?;
    fchdir(&old)?;
    mount(none, ".", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    fchdir(&new)?;
    Ok(new)
}
