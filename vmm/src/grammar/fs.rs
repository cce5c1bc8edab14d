//! `--fs`.

use super::{GrammarError, Pairs, SWITCH, switch};
use crate::config::FsConfig;

const FS: &str = "tag=NAME,socket=PATH or tag=NAME,fd=N, and [,queues=N][,queue-size=N][,dax=on|off]";
const KEYS: &[&str] = &["tag", "socket", "fd", "queues", "queue-size", "dax"];
const DESCRIPTOR: &str = "the number of a connected socket that vmm was started with";
const NUMBER: &str = "a number from 1 to 64";
const SIZE: &str = "a power of two from 2 to 1024";

/// `--fs tag=NAME,socket=PATH`: one shared directory.
///
/// # Errors
/// An unknown, repeated or empty key, no tag, a number that is none.
pub fn fs(text: &str) -> Result<FsConfig, GrammarError> {
    let mut pairs = Pairs::parse("fs", text, FS)?;
    let mut fs = FsConfig::new("");
    if let Some(tag) = pairs.take("tag", "NAME")? {
        fs.tag = tag;
    }
    fs.socket = pairs.take("socket", "PATH")?.map(Into::into);
    if let Some(fd) = pairs.take("fd", DESCRIPTOR)? {
        fs.fd = Some(pairs.value("fd", &fd, DESCRIPTOR, fd.parse().ok())?);
    }
    if let Some(queues) = pairs.take("queues", NUMBER)? {
        fs.queues = pairs.value("queues", &queues, NUMBER, queues.parse().ok())?;
    }
    if let Some(size) = pairs.take("queue-size", SIZE)? {
        fs.queue_size = pairs.value("queue-size", &size, SIZE, size.parse().ok())?;
    }
    if let Some(dax) = pairs.take("dax", SWITCH)? {
        fs.dax = pairs.value("dax", &dax, SWITCH, switch(&dax))?;
    }
    pairs.finish(KEYS)?;
    Ok(fs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_a_tag_and_a_socket_or_a_descriptor() {
        let want = FsConfig { socket: Some("/run/fs.sock".into()), ..FsConfig::new("src") };
        assert_eq!(fs("tag=src,socket=/run/fs.sock").unwrap(), want);
        let want = FsConfig { fd: Some(7), queues: 4, queue_size: 256, dax: true, ..FsConfig::new("src") };
        assert_eq!(fs("tag=src,fd=7,queues=4,queue-size=256,dax=on").unwrap(), want);
    }

    #[test]
    fn keys_and_numbers_that_are_none_are_named() {
        let unknown = fs("tag=src,sockt=/x").unwrap_err().to_string();
        assert_eq!(unknown, "--fs has no key \"sockt\"; did you mean \"socket\"?");
        assert!(
            fs("tag=src,fd=x").unwrap_err().to_string().contains("fd takes the number of a connected socket")
        );
        assert!(fs("tag=src,queues=-1").is_err() && fs("tag=").is_err());
    }
}
