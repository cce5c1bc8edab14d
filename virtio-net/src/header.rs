//! Feature bits, and what they are to a tap (VIRTIO 1.3, 5.1.3; linux/if_tun.h).

use devices::virtio::Features;

/// The device completes a partial checksum of the driver's packets.
pub(crate) const CSUM: u32 = 0;
/// The driver completes those of the device's.
pub(crate) const GUEST_CSUM: u32 = 1;
/// Offloads may be changed while the device is live.
pub(crate) const CTRL_GUEST_OFFLOADS: u32 = 2;
/// The device advises a largest packet.
pub(crate) const MTU: u32 = 3;
/// The device has an address of its own.
pub(crate) const MAC: u32 = 5;
const GUEST_TSO4: u32 = 7;
const GUEST_TSO6: u32 = 8;
const GUEST_ECN: u32 = 9;
const GUEST_UFO: u32 = 10;
const HOST_TSO4: u32 = 11;
const HOST_TSO6: u32 = 12;
const HOST_ECN: u32 = 13;
const HOST_UFO: u32 = 14;
/// A packet may lie in several of the driver's buffers.
pub(crate) const MRG_RXBUF: u32 = 15;
/// The device says whether its link is up.
pub(crate) const STATUS: u32 = 16;
/// There is a control queue.
pub(crate) const CTRL_VQ: u32 = 17;
/// There are several pairs of queues.
pub(crate) const MQ: u32 = 22;
/// The driver may change the device's address.
pub(crate) const CTRL_MAC_ADDR: u32 = 23;

/// Bytes before each packet: `virtio_net_hdr_v1`, whatever else is negotiated, for version 1 always is (5.1.6).
pub(crate) const LEN: usize = 12;
/// Where in it the number of buffers is.
pub(crate) const NUM_BUFFERS: usize = 10;
/// The largest packet with its header, when the driver takes segments to be (5.1.6.3.1).
pub(crate) const LARGEST: usize = 65562;
/// The status bit of a link that is up (5.1.4).
pub(crate) const LINK_UP: u16 = 1;

/// Offloads by the driver's feature and the tap's flag (TUN_F_*), for packets to the guest.
const OFFLOADS: [(u32, u32); 5] =
    [(GUEST_CSUM, 0x01), (GUEST_TSO4, 0x02), (GUEST_TSO6, 0x04), (GUEST_ECN, 0x08), (GUEST_UFO, 0x10)];
/// All flags without and with the one that some kernels lack.
pub(crate) const OFFLOADS_BUT_UFO: u32 = 0x0f;
pub(crate) const OFFLOADS_WITH_UFO: u32 = 0x1f;

const fn bits(list: &[u32]) -> u64 {
    let (mut sum, mut i) = (0, 0);
    while i < list.len() {
        #[allow(clippy::indexing_slicing)] // in a constant
        {
            sum |= 1 << list[i];
        }
        i += 1;
    }
    sum
}

/// What every device of ours offers.
pub(crate) const ALWAYS: u64 = bits(&[MAC, STATUS, CTRL_VQ, CTRL_MAC_ADDR, MRG_RXBUF]);
/// What one offers whose tap may leave work to others.
const OFFLOADING: u64 = bits(&[
    CSUM,
    GUEST_CSUM,
    CTRL_GUEST_OFFLOADS,
    GUEST_TSO4,
    GUEST_TSO6,
    GUEST_ECN,
    HOST_TSO4,
    HOST_TSO6,
    HOST_ECN,
]);
const FRAGMENTING: u64 = bits(&[GUEST_UFO, HOST_UFO]);

/// The features that go with the offloads a tap knows.
pub(crate) const fn offloading(flags: u32) -> u64 {
    match flags {
        0 => 0,
        OFFLOADS_WITH_UFO => OFFLOADING | FRAGMENTING,
        _ => OFFLOADING,
    }
}

/// The tap's flags for what the driver takes.
pub(crate) fn tap_flags(features: Features) -> u32 {
    OFFLOADS.iter().filter(|(feature, _)| features.has(*feature)).fold(0, |flags, (_, flag)| flags | flag)
}

/// Whether a packet to the guest may be longer than its link's.
pub(crate) fn takes_large(features: Features) -> bool {
    [GUEST_TSO4, GUEST_TSO6, GUEST_UFO].iter().any(|feature| features.has(*feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_gets_the_flags_of_what_the_driver_takes() {
        assert_eq!(tap_flags(Features(0)), 0);
        assert_eq!(tap_flags(Features(1 << GUEST_CSUM | 1 << GUEST_TSO6 | 1 << HOST_UFO)), 0x05);
        assert_eq!(tap_flags(Features(offloading(OFFLOADS_WITH_UFO))), OFFLOADS_WITH_UFO);
        assert_eq!(tap_flags(Features(offloading(OFFLOADS_BUT_UFO))), OFFLOADS_BUT_UFO);
        assert_eq!(offloading(0), 0);
    }
}
