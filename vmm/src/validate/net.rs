//! Rules about the devices that talk to the world.

use super::ConfigFault;
use crate::config::{NetConfig, VhostMode, VmConfig};

/// Context ids of guests: below are the hypervisor's, this host's own and the reserved ones, above is "any".
const CIDS: std::ops::RangeInclusive<u32> = 3..=u32::MAX - 1;

pub(super) fn the_cid_is_a_guests(config: &VmConfig) -> Option<ConfigFault> {
    let cid = config.vsock.as_ref()?.cid;
    (!CIDS.contains(&cid)).then_some(ConfigFault::Cid(cid))
}

/// What a network device breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetFault {
    /// No cable, or two.
    #[error(
        "a network device needs a tap, by its name or as open descriptors; write --net tap=NAME or --net fd=N"
    )]
    Tap,
    /// A name that no interface can have.
    #[error("\"{0}\" is no network interface's name; one has 1 to 15 bytes, none of them a slash or a space")]
    Name(String),
    /// Too few or too many queues.
    #[error("a network device has 1 to 32 pairs of queues, not {0}; write queues=1 to queues=32")]
    Queues(usize),
    /// Queues of another number than their descriptors.
    #[error(
        "a network device of {queues} pairs of queues needs {queues} descriptors with {key}=, not {given}"
    )]
    Descriptors {
        /// Which key.
        key: &'static str,
        /// Pairs of queues.
        queues: usize,
        /// Descriptors given.
        given: usize,
    },
    /// The kernel's descriptors, and not the kernel.
    #[error("vhostfd= hands packets to the kernel, and vhost=off does not; leave one of them out")]
    VhostOff,
    /// Limits, and the kernel, which has none.
    #[error(
        "the kernel's vhost-net keeps no limits; leave bw= and ops= out, or have vmm carry the packets with vhost=off"
    )]
    VhostLimits,
    /// A group's address.
    #[error(
        "{0} is a group's address or none; a network device's has an even first byte, such as 52:54:00:12:34:56"
    )]
    Mac(String),
    /// A largest packet that is too small for IP.
    #[error("an mtu of {0} is too small; write mtu=68 to mtu=65535")]
    Mtu(u16),
}

/// Most pairs of queues: one for each CPU there can be.
const PAIRS_MAX: usize = 32;
/// What IPv4 needs, and virtio (VIRTIO 1.3, 5.1.4.1).
const MTU_MIN: u16 = 68;
/// IFNAMSIZ without its terminator.
const NAME_MAX: usize = 15;

pub(super) fn network_devices_are_sound(config: &VmConfig) -> Option<ConfigFault> {
    config.nets.iter().find_map(fault).map(ConfigFault::Net)
}

fn fault(net: &NetConfig) -> Option<NetFault> {
    let (queues, fds, nodes) = (net.pairs(), net.fd.len(), net.vhostfd.len());
    let count = |key, given| Some(NetFault::Descriptors { key, queues, given });
    match &net.tap {
        Some(_) if fds > 0 => return Some(NetFault::Tap),
        None if fds == 0 => return Some(NetFault::Tap),
        Some(name) if !is_name(name) => return Some(NetFault::Name(name.clone())),
        _ => {}
    }
    match (queues, net.mac, net.mtu) {
        (queues, ..) if !(1..=PAIRS_MAX).contains(&queues) => Some(NetFault::Queues(queues)),
        _ if fds > 0 && fds != queues => count("fd", fds),
        _ if nodes > 0 && nodes != queues => count("vhostfd", nodes),
        _ if nodes > 0 && net.vhost == VhostMode::Off => Some(NetFault::VhostOff),
        _ if (nodes > 0 || net.vhost == VhostMode::On) && (net.bw.is_some() || net.ops.is_some()) => {
            Some(NetFault::VhostLimits)
        }
        (_, Some(mac), _) if mac.0[0] & 1 != 0 || mac.0 == [0; 6] => Some(NetFault::Mac(mac.to_string())),
        (_, _, Some(mtu)) if mtu < MTU_MIN => Some(NetFault::Mtu(mtu)),
        _ => None,
    }
}

fn is_name(name: &str) -> bool {
    let good = |c: char| c != '/' && c != ':' && c != '%' && !c.is_whitespace() && !c.is_control();
    (1..=NAME_MAX).contains(&name.len()) && name != "." && name != ".." && name.chars().all(good)
}

/// Descriptors by what they are for.
fn descriptors(config: &VmConfig) -> impl Iterator<Item = i32> {
    let nets = config.nets.iter().flat_map(|net| net.fd.iter().chain(&net.vhostfd)).copied();
    let disks = config.disks.iter().filter_map(|disk| disk.fd);
    let shares = config.fs.iter().filter_map(|share| share.fd);
    config.vsock.iter().filter_map(|vsock| vsock.fd).chain(nets).chain(disks).chain(shares)
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

    fn net_fault(text: &str) -> Option<NetFault> {
        fault(&crate::grammar::net(text).unwrap())
    }

    #[test]
    fn a_sound_network_device_breaks_no_rule() {
        for text in [
            "tap=tap0",
            "fd=3:4,vhostfd=5:6",
            "tap=t,bw=1M",
            "tap=t,vhost=off,ops=9",
            "tap=t,queues=32,mac=52:54:00:12:34:56,mtu=68",
        ] {
            assert_eq!(net_fault(text), None, "{text}");
        }
    }

    #[test]
    fn a_network_device_that_contradicts_itself_is_refused() {
        assert_eq!(net_fault("mtu=1500"), Some(NetFault::Tap));
        assert_eq!(net_fault("tap=t,fd=3"), Some(NetFault::Tap));
        assert_eq!(net_fault("tap=a/b"), Some(NetFault::Name("a/b".into())));
        assert_eq!(net_fault("tap=a234567890123456"), Some(NetFault::Name("a234567890123456".into())));
        assert_eq!(net_fault("tap=t,queues=33"), Some(NetFault::Queues(33)));
        assert_eq!(net_fault("tap=t,queues=0"), Some(NetFault::Queues(0)));
        let count = |key, queues, given| Some(NetFault::Descriptors { key, queues, given });
        assert_eq!(net_fault("fd=3:4,queues=1"), count("fd", 1, 2));
        assert_eq!(net_fault("tap=t,vhostfd=3:4"), count("vhostfd", 1, 2));
        assert_eq!(net_fault("tap=t,vhostfd=3,vhost=off"), Some(NetFault::VhostOff));
        for text in ["tap=t,vhost=on,bw=1M", "tap=t,vhost=on,ops=5", "tap=t,vhostfd=3,bw=1M"] {
            assert_eq!(net_fault(text), Some(NetFault::VhostLimits), "{text}");
        }
        assert!(matches!(net_fault("tap=t,mac=01:00:00:00:00:00"), Some(NetFault::Mac(_))));
        assert!(matches!(net_fault("tap=t,mac=00:00:00:00:00:00"), Some(NetFault::Mac(_))));
        assert_eq!(net_fault("tap=t,mtu=67"), Some(NetFault::Mtu(67)));
    }

    #[test]
    fn a_descriptor_has_one_use_in_the_whole_machine() {
        let mut config = machine(3, Some(7));
        config.nets = vec![crate::grammar::net("fd=8,vhostfd=7").unwrap()];
        assert_eq!(descriptors_have_one_use(&config), Some(ConfigFault::DescriptorTwice(7)));
        config.vsock = None;
        assert_eq!(descriptors_have_one_use(&config), None);
        config.disks = vec![crate::grammar::disk("fd=8").unwrap()];
        assert_eq!(descriptors_have_one_use(&config), Some(ConfigFault::DescriptorTwice(8)));
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
