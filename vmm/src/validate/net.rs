//! Rules about the devices that talk to the world.

use super::ConfigFault;
use crate::config::VmConfig;

/// Context ids of guests: below are the hypervisor's, this host's own and the reserved ones, above is "any".
const CIDS: std::ops::RangeInclusive<u32> = 3..=u32::MAX - 1;

pub(super) fn the_cid_is_a_guests(config: &VmConfig) -> Option<ConfigFault> {
    let cid = config.vsock.as_ref()?.cid;
    (!CIDS.contains(&cid)).then_some(ConfigFault::Cid(cid))
}

/// Descriptors by what they are for.
fn descriptors(config: &VmConfig) -> impl Iterator<Item = i32> {
    let disks = config.disks.iter().filter_map(|disk| disk.fd);
    config.vsock.iter().filter_map(|vsock| vsock.fd).chain(disks)
}

pub(super) fn descriptors_are_not_the_standard_ones(config: &VmConfig) -> Option<ConfigFault> {
    descriptors(config).find(|fd| *fd < 3).map(ConfigFault::StandardDescriptor)
}

pub(super) fn descriptors_have_one_use(config: &VmConfig) -> Option<ConfigFault> {
    let mut seen = std::collections::BTreeSet::new();
    descriptors(config).find(|fd| !seen.insert(*fd)).map(ConfigFault::DescriptorTwice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::VsockConfig;

    fn machine(cid: u32, fd: Option<i32>) -> VmConfig {
        VmConfig { vsock: Some(VsockConfig { cid, fd }), ..VmConfig::default() }
    }

    #[test]
    fn reserved_context_ids_are_refused() {
        for cid in [0, 1, 2, u32::MAX] {
            assert_eq!(the_cid_is_a_guests(&machine(cid, None)), Some(ConfigFault::Cid(cid)));
        }
        for cid in [3, u32::MAX - 1] {
            assert_eq!(the_cid_is_a_guests(&machine(cid, None)), None);
        }
        assert_eq!(the_cid_is_a_guests(&VmConfig::default()), None);
    }

    #[test]
    fn standard_descriptors_are_nobodys() {
        for fd in [-1, 0, 2] {
            let fault = descriptors_are_not_the_standard_ones(&machine(3, Some(fd)));
            assert_eq!(fault, Some(ConfigFault::StandardDescriptor(fd)));
        }
        assert_eq!(descriptors_are_not_the_standard_ones(&machine(3, Some(3))), None);
    }
}
