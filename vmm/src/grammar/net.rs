//! The words of `--vsock` and `--net`.

use super::{GrammarError, Pairs};
use crate::config::VsockConfig;

const VSOCK: &str = "cid=N[,fd=N]";
const VSOCK_KEYS: &[&str] = &["cid", "fd"];
const CID: &str = "a context id from 3 to 4294967294";
const FD: &str = "the number of an open descriptor, from 3 on";

/// `--vsock cid=3`, `--vsock 3` or `--vsock cid=3,fd=5`.
///
/// # Errors
/// An unknown, repeated or empty key, a value that is no number, no context id.
pub fn vsock(text: &str) -> Result<VsockConfig, GrammarError> {
    let mut pairs = Pairs::parse("vsock", text, VSOCK)?;
    pairs.name_bare_first(VSOCK_KEYS);
    let Some(cid) = pairs.take("cid", CID)? else {
        pairs.take("fd", FD)?;
        pairs.finish(VSOCK_KEYS)?;
        return Err(GrammarError::NoValue { flag: "vsock", key: "cid".to_owned(), wants: CID });
    };
    let cid = pairs.value("cid", &cid, CID, cid.parse().ok())?;
    let fd = match pairs.take("fd", FD)? {
        Some(fd) => Some(pairs.value("fd", &fd, FD, fd.parse().ok())?),
        None => None,
    };
    pairs.finish(VSOCK_KEYS)?;
    Ok(VsockConfig { cid, fd })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsock_has_a_context_id_and_perhaps_a_descriptor() {
        assert_eq!(vsock("cid=3").unwrap(), VsockConfig { cid: 3, fd: None });
        assert_eq!(vsock("7").unwrap(), VsockConfig { cid: 7, fd: None });
        assert_eq!(vsock("cid=7,fd=5").unwrap(), VsockConfig { cid: 7, fd: Some(5) });
    }

    #[test]
    fn a_vsock_that_is_not_understood_says_what_would_be() {
        let refused = |text| vsock(text).unwrap_err().to_string();
        assert_eq!(refused("fd=5"), "--vsock cid needs a value: a context id from 3 to 4294967294");
        assert!(refused("cid=x").contains("cid takes a context id from 3"));
        assert!(refused("cid=3,fd=x").contains("fd takes the number of an open descriptor"));
        assert_eq!(refused("cid=3,df=5"), "--vsock has no key \"df\"; did you mean \"fd\"?");
        assert!(refused("").contains("cid=N[,fd=N]"));
    }
}
