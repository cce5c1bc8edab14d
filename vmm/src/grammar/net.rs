//! The words of `--vsock` and `--net`.

use std::str::FromStr;

use super::{GrammarError, Pairs, limits, switch, unknown_word};
use crate::config::{LimitsConfig, NetConfig, VhostMode, VsockConfig};

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
    let fd = parsed(&mut pairs, "fd", FD)?;
    pairs.finish(VSOCK_KEYS)?;
    Ok(VsockConfig { cid, fd })
}

const NET: &str = "tap=NAME or fd=N[:N…], and mac=, mtu=, queues=, vhost=, vhostfd=, offload=, bw=, ops=";
const NET_KEYS: &[&str] = &["tap", "fd", "mac", "mtu", "queues", "vhost", "vhostfd", "offload", "bw", "ops"];
const FDS: &str = "numbers of open descriptors, from 3 on, with colons between them";
const MAC: &str = "six bytes in hexadecimal, such as 52:54:00:12:34:56";
const MTU: &str = "a number of bytes from 68 to 65535";
const QUEUES: &str = "a number of pairs of queues from 1 to 32";

/// `--net tap=tap0`, or any of its keys.
///
/// # Errors
/// An unknown, repeated or empty key, or a value that its key cannot have.
pub fn net(text: &str) -> Result<NetConfig, GrammarError> {
    let mut pairs = Pairs::parse("net", text, NET)?;
    let mut net = NetConfig { tap: pairs.take("tap", "NAME")?, ..NetConfig::default() };
    for (key, list) in [("fd", &mut net.fd), ("vhostfd", &mut net.vhostfd)] {
        if let Some(value) = pairs.take(key, FDS)? {
            let numbers = value.split(':').map(|fd| fd.parse().ok()).collect();
            *list = pairs.value(key, &value, FDS, numbers)?;
        }
    }
    net.mac = parsed(&mut pairs, "mac", MAC)?;
    net.mtu = parsed(&mut pairs, "mtu", MTU)?;
    net.queues = parsed(&mut pairs, "queues", QUEUES)?;
    if let Some(word) = pairs.take("vhost", "on, off or auto")? {
        net.vhost = vhost(&word)?;
    }
    if let Some(value) = pairs.take("offload", super::SWITCH)? {
        net.offload = pairs.value("offload", &value, super::SWITCH, switch(&value))?;
    }
    LimitsConfig { bw: net.bw, ops: net.ops } = limits(&mut pairs)?;
    pairs.finish(NET_KEYS)?;
    Ok(net)
}

fn parsed<T: FromStr>(pairs: &mut Pairs, key: &str, wants: &'static str) -> Result<Option<T>, GrammarError> {
    let Some(value) = pairs.take(key, wants)? else { return Ok(None) };
    pairs.value(key, &value, wants, value.parse().ok()).map(Some)
}

fn vhost(word: &str) -> Result<VhostMode, GrammarError> {
    match (word, switch(word)) {
        ("auto", _) => Ok(VhostMode::Auto),
        (_, Some(true)) => Ok(VhostMode::On),
        (_, Some(false)) => Ok(VhostMode::Off),
        _ => Err(unknown_word("net", word, &["on", "off", "auto"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_device_has_a_tap_and_what_else_is_named() {
        let tap = NetConfig { tap: Some("tap0".into()), ..NetConfig::default() };
        assert_eq!(net("tap=tap0").unwrap(), tap);
        let all = net("fd=3:4,mac=52:54:00:12:34:Fe,mtu=1450,queues=2,vhost=on,vhostfd=5:6,offload=off");
        let all = all.unwrap();
        assert_eq!((all.fd.as_slice(), all.vhostfd.as_slice()), (&[3, 4][..], &[5, 6][..]));
        assert_eq!(all.mac.unwrap().to_string(), "52:54:00:12:34:fe");
        assert_eq!(
            (all.mtu, all.queues, all.vhost, all.offload),
            (Some(1450), Some(2), VhostMode::On, false)
        );
        assert_eq!(net("tap=t,vhost=auto").unwrap().vhost, VhostMode::Auto);
        let limited = net("tap=t,bw=10M,ops=1000").unwrap();
        assert_eq!((limited.bw, limited.ops), (Some(10 << 20), Some(1000)));
    }

    #[test]
    fn a_network_device_that_is_not_understood_says_what_would_be() {
        let refused = |text| net(text).unwrap_err().to_string();
        assert!(refused("tap=t,mac=52:54").contains("mac takes six bytes in hexadecimal"));
        assert!(refused("tap=t,mac=52:54:00:12:34:+6").contains("six bytes"));
        assert!(refused("tap=t,mtu=70000").contains("from 68 to 65535"));
        assert!(refused("fd=3:x").contains("with colons between them"));
        assert!(refused("tap=t,vhost=maybe").contains("there are on, off and auto"));
        assert_eq!(refused("tap=t,macc=1"), "--net has no key \"macc\"; did you mean \"mac\"?");
        assert!(refused("tap").contains("needs a value"));
    }

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
