//! Memory of this process beside the guest's, from /proc/self/smaps.

use std::fs;
use std::ops::Range;

use serde::Serialize;

/// Resident memory that is not the guest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// All of it, in KiB.
    pub resident_kib: u64,
    /// The anonymous part (heap, stacks, written data), in KiB.
    pub anonymous_kib: u64,
}

/// This process's memory outside the `guest`'s host addresses; `None` where procfs does not tell.
pub fn beside(guest: &[Range<u64>]) -> Option<Beside> {
    Some(sum(&fs::read_to_string("/proc/self/smaps").ok()?, guest))
}

fn sum(smaps: &str, guest: &[Range<u64>]) -> Beside {
    let mut sum = Beside::default();
    let mut ours = false;
    for line in smaps.lines() {
        if let Some(start) = mapping_start(line) {
            ours = !guest.iter().any(|range| range.contains(&start));
        } else if ours {
            sum.resident_kib += kib(line, "Rss:");
            sum.anonymous_kib += kib(line, "Anonymous:");
        }
    }
    sum
}

/// The start address, if the line begins a mapping: "7f00-7f80 rw-p …".
fn mapping_start(line: &str) -> Option<u64> {
    let (start, _) = line.split_once(' ')?.0.split_once('-')?;
    u64::from_str_radix(start, 16).ok()
}

fn kib(line: &str, field: &str) -> u64 {
    let value = line.strip_prefix(field).and_then(|rest| rest.split_whitespace().next());
    value.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0010000000 rw-p 00000000 00:00 0
Size:             262144 kB
Rss:              100000 kB
Anonymous:        100000 kB
AnonHugePages:     98304 kB
7f0010000000-7f0010021000 rw-p 00000000 00:00 0 [heap]
Size:                132 kB
Rss:                  40 kB
Anonymous:            36 kB
AnonHugePages:         0 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
Rss:                   0 kB
";

    #[test]
    fn the_guests_mapping_is_left_out() {
        let guest = 0x7f00_0000_0000..0x7f00_1000_0000;
        assert_eq!(sum(SMAPS, &[guest]), Beside { resident_kib: 40, anonymous_kib: 36 });
        assert_eq!(sum(SMAPS, &[]), Beside { resident_kib: 100_040, anonymous_kib: 100_036 });
    }

    #[test]
    fn this_very_process_has_memory() {
        assert!(beside(&[]).unwrap().resident_kib > 0);
    }
}
