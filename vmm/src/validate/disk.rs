//! Rules about disks.

use super::ConfigFault;
use crate::config::{DiskConfig, VmConfig};

/// What a disk breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskFault {
    /// Nothing, or two things.
    #[error("a disk is a file or a device, or a descriptor of one; write --disk path=PATH or --disk fd=N")]
    Source,
    /// Too few or too many queues.
    #[error("a disk has 1 to 32 queues, not {0}; more than the machine has CPUs are of no use")]
    Queues(u16),
    /// A serial number that no driver could read.
    #[error("a disk's serial number has {0} bytes; a guest reads at most 20")]
    Serial(usize),
}

const QUEUES_MAX: u16 = 32;
/// What a driver can read (VIRTIO 1.3, 5.2.6).
const SERIAL_MAX: usize = 20;

/// What one of the disks breaks, the first that breaks anything.
pub(super) fn every_disk_is_sound(config: &VmConfig) -> Option<ConfigFault> {
    config.disks.iter().find_map(|disk| SOUND.iter().find_map(|rule| rule(disk)))
}

const SOUND: &[fn(&DiskConfig) -> Option<ConfigFault>] = &[one_source, queues, serial];

fn one_source(disk: &DiskConfig) -> Option<ConfigFault> {
    match (&disk.path, disk.fd) {
        (Some(path), None) if path.as_os_str().is_empty() => Some(ConfigFault::EmptyPath("a disk")),
        (Some(_), None) | (None, Some(_)) => None,
        _ => Some(ConfigFault::Disk(DiskFault::Source)),
    }
}

fn queues(disk: &DiskConfig) -> Option<ConfigFault> {
    (disk.queues == 0 || disk.queues > QUEUES_MAX)
        .then_some(ConfigFault::Disk(DiskFault::Queues(disk.queues)))
}

fn serial(disk: &DiskConfig) -> Option<ConfigFault> {
    let len = disk.serial.len();
    (len > SERIAL_MAX).then_some(ConfigFault::Disk(DiskFault::Serial(len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(change: impl FnOnce(&mut DiskConfig)) -> Option<ConfigFault> {
        let mut disk = DiskConfig { path: Some("/d".into()), ..DiskConfig::default() };
        change(&mut disk);
        every_disk_is_sound(&VmConfig { disks: vec![disk], ..VmConfig::default() })
    }

    #[test]
    fn a_disk_has_a_path_or_a_descriptor_not_both() {
        assert_eq!(fault(|_| {}), None);
        assert_eq!(fault(|d| (d.path, d.fd) = (None, Some(3))), None);
        assert_eq!(fault(|d| d.fd = Some(3)), Some(ConfigFault::Disk(DiskFault::Source)));
        assert_eq!(fault(|d| d.path = None), Some(ConfigFault::Disk(DiskFault::Source)));
        assert_eq!(fault(|d| d.path = Some("".into())), Some(ConfigFault::EmptyPath("a disk")));
    }

    #[test]
    fn numbers_have_their_limits() {
        assert_eq!(fault(|d| d.queues = 0), Some(ConfigFault::Disk(DiskFault::Queues(0))));
        assert_eq!(fault(|d| d.queues = 33), Some(ConfigFault::Disk(DiskFault::Queues(33))));
        assert_eq!(fault(|d| d.queues = 32), None);
        assert_eq!(fault(|d| d.serial = "x".repeat(21)), Some(ConfigFault::Disk(DiskFault::Serial(21))));
        assert_eq!(fault(|d| d.serial = "x".repeat(20)), None);
    }
}
