//! Why there is no machine, or no longer one: by phase, with the exit status of each.

use std::error::Error as StdError;
use std::io::{self, ErrorKind};

use devices::virtio::block::DiskError;

use crate::boot::BootError;
use crate::builder::BuildError;
use crate::exit::status;
use crate::kvm::KvmError;
use crate::ram::RamError;
use crate::running::Failure;
use crate::validate::Invalid;

/// Any error's own type, kept for its sentence.
type Cause = Box<dyn StdError + Send + Sync>;

/// An error of the whole program: whom it concerns, and what happened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the configuration is wrong: the caller can mend it.
    #[error(transparent)]
    Usage(Cause),
    /// The kernel or the initrd is no good.
    #[error(transparent)]
    BootFile(Cause),
    /// The host lacks something.
    #[error(transparent)]
    Host(Cause),
    /// A bug of ours, or KVM does what it never should.
    #[error(transparent)]
    Bug(Cause),
}

impl Error {
    /// The process exit status of this phase.
    pub const fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => status::USAGE,
            Self::BootFile(_) => status::BOOT_FILE,
            Self::Host(_) => status::HOST,
            Self::Bug(_) => status::BUG,
        }
    }
}

/// `error` and its sources as one text, each said once.
pub fn sentence(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        // Many sentences hold their source already.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

impl Error {
    /// Whom a disk that cannot be used concerns.
    fn of_disk(why: &DiskError) -> fn(Cause) -> Self {
        match why {
            DiskError::Open(_) | DiskError::Kind => Self::BootFile,
            DiskError::ReadOnly | DiskError::NotDirect => Self::Usage,
            DiskError::InUse | DiskError::Size(_) => Self::Host,
        }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Config(_) => Self::Usage(invalid.into()),
            Invalid::Files(_) => Self::BootFile(invalid.into()),
            Invalid::Host(_) => Self::Host(invalid.into()),
        }
    }
}

impl From<KvmError> for Error {
    fn from(error: KvmError) -> Self {
        match &error {
            KvmError::Call { source, .. } if !is_shortage(source) => Self::Bug(error.into()),
            _ => Self::Host(error.into()),
        }
    }
}

/// Whether a call failed for want of something that the host can be given more of.
fn is_shortage(error: &io::Error) -> bool {
    let few = [ErrorKind::OutOfMemory, ErrorKind::PermissionDenied, ErrorKind::ResourceBusy];
    few.contains(&error.kind()) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl From<BuildError> for Error {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Boot(BootError::Cmdline { .. }) => Self::Usage(error.into()),
            BuildError::Boot(BootError::Memory(_)) | BuildError::Bus(_) => Self::Bug(error.into()),
            BuildError::Boot(_) => Self::BootFile(error.into()),
            BuildError::Kvm(error) => error.into(),
            BuildError::Ram(RamError::Layout(_)) => Self::Bug(error.into()),
            BuildError::Console(devices::chardev::ChardevError::Host(_)) => Self::Host(error.into()),
            BuildError::Console(_) | BuildError::Open { .. } | BuildError::Slots => Self::Usage(error.into()),
            BuildError::Inherit(_) | BuildError::Regions => Self::Usage(error.into()),
            BuildError::Tap(why) if why.is_callers() => Self::Usage(why.into()),
            BuildError::Net(why) if why.is_callers() => Self::Usage(why.into()),
            BuildError::Vsock(why) if why.is_callers() => Self::Usage(why.into()),
            BuildError::Disk { ref why, .. } => Self::of_disk(why)(error.into()),
            BuildError::Ram(_) | BuildError::Host { .. } | BuildError::Fs(_) => Self::Host(error.into()),
            BuildError::Tap(_) | BuildError::Net(_) | BuildError::Vsock(_) => Self::Host(error.into()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Vcpu(error) => error.into(),
            Failure::Thread(_) => Self::Host(failure.into()),
            Failure::Kvm { .. } | Failure::Wait(_) => Self::Bug(failure.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::ConfigFault;

    fn call(errno: i32) -> KvmError {
        KvmError::Call { what: "make a machine", source: io::Error::from_raw_os_error(errno) }
    }

    #[test]
    fn each_phase_has_its_own_exit_status() {
        assert_eq!(Error::from(Invalid::Config(vec![ConfigFault::NoKernel])).status(), 64);
        assert_eq!(Error::from(Invalid::Files(vec![])).status(), 65);
        assert_eq!(Error::from(Invalid::Host(vec![])).status(), 69);
        assert_eq!(Error::from(Failure::Kvm { reason: 17, detail: 1 }).status(), 70);
    }

    #[test]
    fn kvm_that_is_missing_or_short_of_something_is_the_hosts_matter_and_the_rest_a_bug() {
        assert_eq!(Error::from(KvmError::Missing).status(), 69);
        assert_eq!(Error::from(KvmError::Permission).status(), 69);
        assert_eq!(Error::from(call(libc::ENOMEM)).status(), 69);
        assert_eq!(Error::from(call(libc::EMFILE)).status(), 69);
        assert_eq!(Error::from(call(libc::EINVAL)).status(), 70);
    }

    #[test]
    fn a_source_is_told_once() {
        let error = Error::from(BuildError::Kvm(call(libc::EINVAL)));
        let text = sentence(&error);
        assert_eq!(text.matches("Invalid argument").count(), 1, "{text}");
    }

    #[test]
    fn a_source_that_the_sentence_left_out_is_added() {
        #[derive(Debug, thiserror::Error)]
        #[error("the door is shut")]
        struct Door(#[source] io::Error);
        let text = sentence(&Door(io::Error::other("the key is lost")));
        assert_eq!(text, "the door is shut: the key is lost");
    }
}
