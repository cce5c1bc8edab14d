//! Rules about shared directories.

use std::os::unix::ffi::OsStrExt;

use virtio_fs::device::TAG_MAX;

use super::machine::{ConfigFault, SOCKET_PATH_MAX};
use crate::config::{FsConfig, VmConfig};

/// What a shared directory breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsFault {
    /// A tag that no device can show.
    #[error("the tag \"{0}\" of a share has {len} bytes; it must have 1 to 36 and no NUL: write --fs tag=NAME", len = .0.len())]
    Tag(String),
    /// One tag for two directories.
    #[error("the tag \"{0}\" is given to two shares; a guest could mount only one of them")]
    TagTwice(String),
    /// No daemon, or two.
    #[error("the share \"{0}\" needs a daemon: write socket=PATH where it listens, or fd=N, and not both")]
    Daemon(String),
    /// A socket path that no socket can have.
    #[error("the share \"{tag}\" has a socket path of {len} bytes; a socket's path has 1 to 107")]
    Path {
        /// Which share.
        tag: String,
        /// Its length.
        len: usize,
    },
    /// A descriptor that cannot be the daemon's.
    #[error("descriptor {0} cannot be a share's; give each one of its own, from 3 on")]
    Descriptor(i32),
    /// Too few or too many queues.
    #[error("the share \"{tag}\" cannot have {queues} queues; write queues=1 to queues=64")]
    Queues {
        /// Which share.
        tag: String,
        /// How many were asked for.
        queues: u16,
    },
    /// A size that no queue has.
    #[error("the share \"{tag}\" cannot have queues of size {size}; it is a power of two from 2 to 1024")]
    QueueSize {
        /// Which share.
        tag: String,
        /// What was asked for.
        size: u16,
    },
}

pub(super) fn shares_can_be(config: &VmConfig) -> Option<ConfigFault> {
    config
        .fs
        .iter()
        .find_map(own)
        .or_else(|| config.fs.iter().zip(0..).find_map(|fs| twice(config, fs)))
        .map(ConfigFault::Fs)
}

/// What is wrong with a share by itself.
fn own(fs: &FsConfig) -> Option<FsFault> {
    let tag = || fs.tag.clone();
    let path = fs.socket.as_ref().map(|path| path.as_os_str().as_bytes().len());
    match fs {
        _ if fs.tag.is_empty() || fs.tag.len() > TAG_MAX || fs.tag.contains('\0') => {
            Some(FsFault::Tag(tag()))
        }
        _ if fs.socket.is_some() == fs.fd.is_some() => Some(FsFault::Daemon(tag())),
        _ if path.is_some_and(|len| len == 0 || len > SOCKET_PATH_MAX) => {
            Some(FsFault::Path { tag: tag(), len: path.unwrap_or(0) })
        }
        FsConfig { fd: Some(fd @ ..=2), .. } => Some(FsFault::Descriptor(*fd)),
        FsConfig { queues: queues @ (0 | 65..), .. } => Some(FsFault::Queues { tag: tag(), queues: *queues }),
        FsConfig { queue_size: size, .. } if !size.is_power_of_two() || !(2..=1024).contains(size) => {
            Some(FsFault::QueueSize { tag: tag(), size: *size })
        }
        _ => None,
    }
}

/// What a share has that a later one has, too.
fn twice(config: &VmConfig, (fs, at): (&FsConfig, usize)) -> Option<FsFault> {
    let mut later = config.fs.iter().skip(at + 1);
    later.find_map(|other| match other {
        _ if other.tag == fs.tag => Some(FsFault::TagTwice(fs.tag.clone())),
        _ if other.fd.is_some() && other.fd == fs.fd => other.fd.map(FsFault::Descriptor),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tag: &str, fd: i32) -> FsConfig {
        FsConfig { fd: Some(fd), ..FsConfig::new(tag) }
    }

    fn fault(fs: &[FsConfig]) -> Option<ConfigFault> {
        shares_can_be(&VmConfig { fs: fs.to_vec(), ..VmConfig::default() })
    }

    #[test]
    fn shares_of_their_own_tags_and_daemons_are_fine() {
        assert_eq!(fault(&[]), None);
        let by_path = FsConfig { socket: Some("/run/fs".into()), ..FsConfig::new("x".repeat(36)) };
        assert_eq!(fault(&[share("a", 3), share("b", 4), by_path]), None);
    }

    #[test]
    fn a_share_that_cannot_be_is_told_with_its_tag() {
        assert!(matches!(fault(&[share("", 3)]), Some(ConfigFault::Fs(FsFault::Tag(_)))));
        let long = fault(&[share(&"x".repeat(37), 3)]).unwrap().to_string();
        assert!(long.contains("has 37 bytes"), "{long}");
        assert!(matches!(fault(&[FsConfig::new("a")]), Some(ConfigFault::Fs(FsFault::Daemon(_)))));
        let both = FsConfig { socket: Some("/x".into()), ..share("a", 3) };
        assert!(matches!(fault(&[both]), Some(ConfigFault::Fs(FsFault::Daemon(_)))));
        let long = FsConfig { socket: Some("x".repeat(108).into()), ..FsConfig::new("a") };
        assert!(matches!(fault(&[long]), Some(ConfigFault::Fs(FsFault::Path { len: 108, .. }))));
        assert_eq!(fault(&[share("a", 2)]), Some(ConfigFault::Fs(FsFault::Descriptor(2))));
        for queues in [0, 65] {
            let fs = FsConfig { queues, ..share("a", 3) };
            assert!(matches!(fault(&[fs]), Some(ConfigFault::Fs(FsFault::Queues { .. }))));
        }
        for queue_size in [0, 1, 3, 2048] {
            let fs = FsConfig { queue_size, ..share("a", 3) };
            assert!(matches!(fault(&[fs]), Some(ConfigFault::Fs(FsFault::QueueSize { .. }))));
        }
    }

    #[test]
    fn two_shares_have_two_tags_and_two_descriptors() {
        let same = [share("a", 3), share("b", 4), share("a", 5)];
        assert_eq!(fault(&same), Some(ConfigFault::Fs(FsFault::TagTwice("a".into()))));
        assert_eq!(fault(&[share("a", 3), share("b", 3)]), Some(ConfigFault::Fs(FsFault::Descriptor(3))));
    }
}
