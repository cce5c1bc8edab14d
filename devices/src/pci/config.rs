//! A function's configuration space (PCI 3.0, 6.1 and 6.7): 4 KiB of bytes, and which bits of them a guest may write.

use super::Decoded;
use crate::addr::AddrRange;

/// Bytes of a function's configuration space (PCI Express 5.0, 7.2.2).
pub const SIZE: usize = 4096;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const BAR1: usize = 0x14;
/// And its upper half behind it.
const BAR2: usize = 0x18;
/// In a BAR: it is of ports (6.2.5.1).
const OF_PORTS: u16 = 1;
/// It is of memory, 64 bits wide, and reading it changes nothing.
const OF_WIDE_MEMORY: u64 = 0b1100;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// First byte behind the standard header.
const FIRST_CAPABILITY: u8 = 0x40;

/// Command: decode ports, decode memory, master the bus, mask INTx.
const IO_SPACE: u16 = 1 << 0;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
/// Status: there is a list of capabilities.
const CAPABILITY_LIST: u16 = 1 << 4;

/// What a function says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor and device.
    pub id: (u16, u16),
    /// Base class, sub-class, interface.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
}

/// The bytes and their write mask.
pub struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
    /// Where the link to the next capability is to be written.
    link: usize,
    next: u8,
    /// Sizes of the BARs, 0 where there is none.
    memory: u32,
    ports: u16,
    region: u64,
}

impl ConfigSpace {
    /// A type 0 header without a BAR or a capability.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
            link: CAPABILITIES,
            next: FIRST_CAPABILITY,
            memory: 0,
            ports: 0,
            region: 0,
        };
        let Identity { id, class: [base, sub, interface], revision, subsystem } = identity;
        space.put(0, &id.0.to_le_bytes());
        space.put(2, &id.1.to_le_bytes());
        space.put(8, &[revision, interface, sub, base]);
        space.put(SUBSYSTEM, &subsystem.0.to_le_bytes());
        space.put(SUBSYSTEM + 2, &subsystem.1.to_le_bytes());
        space.allow(COMMAND, &(IO_SPACE | MEMORY_SPACE | BUS_MASTER | INTX_DISABLE).to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds BAR 0: 32-bit memory of `size` bytes, a power of two and at least 16, at `bar`. It is decoded from the
    /// start, as firmware would have left it: a guest that keeps the address need not write it.
    pub fn with_memory(mut self, bar: u32, size: u32) -> Self {
        self.memory = size;
        self.put(BAR0, &bar.to_le_bytes());
        // The low bits are fixed, by which a guest that writes ones learns the size (6.2.5.1).
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
        self.decode(MEMORY_SPACE | BUS_MASTER);
        self
    }

    /// Adds BAR 1: `size` ports, a power of two from 4 to 256, at `bar`, decoded from the start as well.
    pub fn with_ports(mut self, bar: u16, size: u16) -> Self {
        self.ports = size;
        self.put(BAR1, &(bar | OF_PORTS).to_le_bytes());
        // A PC has 16 bits of ports; those above need not be there (6.2.5.1).
        self.allow(BAR1, &(!(size - 1)).to_le_bytes());
        self.decode(IO_SPACE);
        self
    }

    /// Adds BAR 2: 64-bit memory of `size` bytes, a power of two and at least 16, at `bar`, decoded from the start as well.
    pub fn with_region(mut self, bar: u64, size: u64) -> Self {
        self.region = size;
        self.put(BAR2, &(bar | OF_WIDE_MEMORY).to_le_bytes());
        self.allow(BAR2, &(!(size - 1)).to_le_bytes());
        self.decode(MEMORY_SPACE);
        self
    }

    fn decode(&mut self, bits: u16) {
        let command = self.u16_at(COMMAND) | bits;
        self.put(COMMAND, &command.to_le_bytes());
    }

    /// Appends a capability: its id, and its `body` behind id and link. `writable` is the mask of the body, zeros
    /// where it is shorter. Returns the body's offset; `None` when there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let at = usize::from(self.next);
        let end = at + 2 + body.len();
        let next = u8::try_from(end.next_multiple_of(4)).ok()?;
        self.put(STATUS, &CAPABILITY_LIST.to_le_bytes());
        self.put(self.link, &[self.next]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        (self.link, self.next) = (at + 1, next);
        Some(at + 2)
    }

    /// Sets bytes, whatever a guest may do with them.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Reads; all ones past the end.
    pub fn read(&self, offset: usize, out: &mut [u8]) {
        out.fill(0xff);
        out.iter_mut().zip(self.bytes.iter().skip(offset)).for_each(|(to, from)| *to = *from);
    }

    /// A guest's write: what it may change is changed.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        let targets = self.bytes.iter_mut().zip(self.writable.iter()).skip(offset);
        for ((byte, mask), new) in targets.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    /// A 16-bit register's value.
    pub fn u16_at(&self, at: usize) -> u16 {
        let mut raw = [0; 2];
        self.read(at, &mut raw);
        u16::from_le_bytes(raw)
    }

    /// A 32-bit register's value.
    pub fn u32_at(&self, at: usize) -> u32 {
        let mut raw = [0; 4];
        self.read(at, &mut raw);
        u32::from_le_bytes(raw)
    }

    /// Where the BARs are decoded.
    pub fn decoded(&self) -> Decoded {
        let command = self.u16_at(COMMAND);
        let seen = |bit, base: u64, size: u64| {
            let on = command & bit != 0 && base != 0;
            on.then(|| AddrRange::new(base, size)).flatten()
        };
        let wide = u64::from(self.u32_at(BAR2)) | u64::from(self.u32_at(BAR2 + 4)) << 32;
        Decoded {
            memory: seen(MEMORY_SPACE, self.u32_at(BAR0).into(), self.memory.into()),
            ports: seen(IO_SPACE, (self.u16_at(BAR1) & !OF_PORTS).into(), self.ports.into()),
            region: seen(MEMORY_SPACE, wide & !0xf, self.region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity =
            Identity { id: (0x1af4, 0x1044), class: [0xff, 0, 0], revision: 1, subsystem: (0x1af4, 0x1100) };
        ConfigSpace::new(identity).with_memory(0xc000_0000, 0x4000).with_ports(0xc004, 4)
    }

    #[test]
    fn a_bar_of_ones_reads_back_its_size_and_moves_when_written() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.u32_at(BAR0), 0xffff_c000);
        space.write(BAR0, &0xd000_4000u32.to_le_bytes());
        let seen = |space: &ConfigSpace| {
            let Decoded { memory, ports, .. } = space.decoded();
            (memory.map(|r| r.base()), ports.map(|r| r.base()))
        };
        assert_eq!(seen(&space), (Some(0xd000_4000), Some(0xc004)));
        space.write(BAR1, &[0xff; 4]);
        assert_eq!(space.u32_at(BAR1), 0xfffd, "four ports");
        space.write(BAR1, &0xd008u32.to_le_bytes());
        assert_eq!((space.u32_at(BAR1), seen(&space).1), (0xd009, Some(0xd008)));
        space.write(COMMAND, &[2, 0]);
        assert_eq!(seen(&space), (Some(0xd000_4000), None));
        space.write(COMMAND, &[1, 0]);
        assert_eq!(seen(&space), (None, Some(0xd008)));
    }

    #[test]
    fn a_bar_of_64_bits_is_sized_by_both_halves() {
        let (at, size) = (0x3_0000_0000, 0x1_0000_0000);
        let mut space = space().with_region(at, size);
        assert_eq!(space.decoded().region, AddrRange::new(at, size));
        space.write(BAR2, &[0xff; 4]);
        space.write(BAR2 + 4, &[0xff; 4]);
        assert_eq!((space.u32_at(BAR2), space.u32_at(BAR2 + 4)), (0xc, 0xffff_ffff));
        space.write(BAR2 + 4, &7u32.to_le_bytes());
        assert_eq!(space.decoded().region, AddrRange::new(0x7_0000_0000, size));
        space.write(COMMAND, &[1, 0]);
        assert_eq!(space.decoded().region, None);
        assert_eq!(self::space().decoded().region, None, "none without");
    }

    #[test]
    fn capabilities_are_a_list_that_ends() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3], &[]).expect("room");
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).expect("room");
        let mut head = [0; 2];
        space.read(usize::from(space.bytes[CAPABILITIES]), &mut head);
        assert_eq!(head, [9, u8::try_from(second - 2).expect("a byte")]);
        space.read(second - 2, &mut head);
        assert_eq!(head, [0x11, 0]);
        space.write(first, &[9; 3]);
        space.write(second, &[0xff; 10]);
        assert_eq!((space.bytes[first], space.bytes[second], space.bytes[second + 1]), (1, 0, 0xc0));
    }

    #[test]
    fn a_list_that_is_full_is_told() {
        let mut space = space();
        assert!(space.add_capability(9, &[0; 200], &[]).is_none());
    }

    #[test]
    fn accesses_past_the_end_are_harmless() {
        let mut space = space();
        space.write(SIZE - 1, &[1; 8]);
        let mut out = [0; 8];
        space.read(SIZE - 1, &mut out);
        assert_eq!(out, [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        space.read(usize::MAX, &mut out);
    }
}
