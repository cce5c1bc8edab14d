//! The words of `--disk`.

use std::path::PathBuf;

use super::{GrammarError, NUMBER, Pairs, SWITCH, limits, switch};
use crate::config::{DiskConfig, LimitsConfig};

const DISK: &str =
    "path=PATH or fd=N, and perhaps readonly=on, direct=on, serial=TEXT, queues=N, bw=SIZE, ops=N";
const KEYS: &[&str] = &["path", "fd", "readonly", "direct", "serial", "queues", "bw", "ops"];
const FD: &str = "the number of an open descriptor, from 3 on";

/// `--disk disk.img` or `--disk path=disk.img,readonly=on,direct=on,serial=X,queues=2,bw=100M,ops=1000`.
///
/// # Errors
/// An unknown, repeated or empty key, a number, size or switch that is none.
pub fn disk(text: &str) -> Result<DiskConfig, GrammarError> {
    let mut pairs = Pairs::parse("disk", text, DISK)?;
    pairs.name_bare_first(KEYS);
    let mut disk =
        DiskConfig { path: pairs.take("path", "PATH")?.map(PathBuf::from), ..DiskConfig::default() };
    if let Some(fd) = pairs.take("fd", FD)? {
        disk.fd = Some(pairs.value("fd", &fd, FD, fd.parse().ok())?);
    }
    for (key, field) in [("readonly", &mut disk.readonly), ("direct", &mut disk.direct)] {
        if let Some(value) = pairs.take(key, SWITCH)? {
            *field = pairs.value(key, &value, SWITCH, switch(&value))?;
        }
    }
    disk.serial = pairs.take("serial", "TEXT")?.unwrap_or_default();
    if let Some(queues) = pairs.take("queues", NUMBER)? {
        disk.queues = pairs.value("queues", &queues, NUMBER, queues.parse().ok())?;
    }
    LimitsConfig { bw: disk.bw, ops: disk.ops } = limits(&mut pairs)?;
    pairs.finish(KEYS)?;
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_path_or_a_descriptor_and_perhaps_more() {
        let plain = DiskConfig { path: Some("/d.img".into()), ..DiskConfig::default() };
        assert_eq!(disk("/d.img").unwrap(), plain);
        assert_eq!(disk("path=/d.img").unwrap(), plain);
        let all = "fd=5,readonly=on,direct=on,serial=\"a,b\",queues=4,bw=100M,ops=1000";
        let wanted = DiskConfig {
            path: None,
            fd: Some(5),
            readonly: true,
            direct: true,
            serial: "a,b".to_owned(),
            queues: 4,
            bw: Some(100 << 20),
            ops: Some(1000),
        };
        assert_eq!(disk(all).unwrap(), wanted);
    }

    #[test]
    fn a_disk_that_is_not_understood_says_what_would_be() {
        let refused = |text| disk(text).unwrap_err().to_string();
        assert_eq!(
            refused("path=/d,reodonly=on"),
            "--disk has no key \"reodonly\"; did you mean \"readonly\"?"
        );
        assert!(refused("/d,queues=many").contains("queues takes a whole number"));
        assert!(refused("/d,bw=fast").contains("bw takes a number of bytes"));
        assert!(refused("").contains("path=PATH or fd=N"));
    }
}
