//! A VMM's memory beside its guest's, from `/proc/PID/smaps`.

use std::io;

use serde::{Deserialize, Serialize};

/// Memory beside the guest's, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Resident, files' pages included.
    pub resident: u64,
    /// Of that, pages that are no file's.
    pub anonymous: u64,
}

/// Reads it of process `pid`, whose guest has `mib` MiB.
pub(crate) fn beside(pid: u32, mib: u32) -> io::Result<Beside> {
    Ok(sum(&std::fs::read_to_string(format!("/proc/{pid}/smaps"))?, mib))
}

/// Whatever has half the guest's size or more is the guest's: no VMM has anything like it for itself.
fn sum(smaps: &str, mib: u32) -> Beside {
    let threshold = u64::from(mib) * 512;
    let (mut beside, mut is_guests) = (Beside::default(), false);
    for line in smaps.lines() {
        let kib = |name: &str| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok();
        if let Some(size) = kib("Size:") {
            is_guests = size >= threshold;
        } else if !is_guests {
            beside.resident += kib("Rss:").unwrap_or(0);
            beside.anonymous += kib("Anonymous:").unwrap_or(0);
        }
    }
    beside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_mapping_is_left_out() {
        let smaps = "\
7f0-7f1 r-xp 0 0 0 /vmm\nSize:   2000 kB\nRss:   1500 kB\nAnonymous:   0 kB\n\
7f2-7f3 rw-p 0 0 0\nSize:   262144 kB\nRss:   90000 kB\nAnonymous:   90000 kB\n\
7f4-7f5 rw-p 0 0 0\nSize:   132 kB\nRss:   40 kB\nAnonymous:   32 kB\n";
        assert_eq!(sum(smaps, 256), Beside { resident: 1540, anonymous: 32 });
    }
}
