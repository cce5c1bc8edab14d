//! The I/O APIC (Intel 82093AA), with as many pins as the machine has interrupts.
//!
//! The hypervisor's own I/O APIC always has 24 pins, and a kernel reads and writes each of them some twenty
//! times at boot, every access a VM exit with an emulated instruction. Here a machine has the pins it needs,
//! the index register's writes can be collected by the hypervisor, and a pin's interrupt is a message-signalled
//! vector: after the guest has programmed a pin, this code is not on its path.
//!
//! 1. Pins start masked.
//! 2. The guest programs a redirection entry: the pin's vector gets the message the entry stands for.
//! 3. A device signals the pin's eventfd: the hypervisor delivers the message.
//!
//! All pins are edge-triggered: the machine's tables say so, and no device of ours holds a line. A guest that
//! programs level gets one interrupt a signal, and no EOI is ever waited for.

use std::io;

use crate::addr::Gsi;
use crate::bus::BusDevice;
use crate::interrupt::{Interrupt, MsiSource, MsiVector};

/// Index register: which register the data window shows.
const IOREGSEL: u64 = 0x00;
/// Data window.
const IOWIN: u64 = 0x10;

const REG_ID: u8 = 0x00;
const REG_VERSION: u8 = 0x01;
const REG_ARBITRATION: u8 = 0x02;
/// First of two registers a pin.
const REG_TABLE: u8 = 0x10;

/// Version without the EOI register, whose use would be another exit an interrupt.
const VERSION: u32 = 0x11;

/// Redirection entry: delivery status and remote IRR are the chip's to write.
const READ_ONLY: u64 = 1 << 12 | 1 << 14;
const MASKED: u64 = 1 << 16;
/// Vector, delivery mode, trigger mode: where they stand in an entry they stand in a message's data.
const DATA_BITS: u64 = 0xff | 7 << 8 | 1 << 15;
const DEST_LOGICAL: u64 = 1 << 11;
const ID_MASK: u32 = 0xf << 24;

struct Pin {
    entry: u64,
    vector: Box<dyn MsiVector>,
}

/// The chip's registers.
pub struct IoApic {
    select: u8,
    id: u32,
    pins: Vec<Pin>,
}

impl IoApic {
    /// A chip of `pins` pins, 1 to 24, whose vectors come from `source`.
    pub fn new(pins: u8, source: &dyn MsiSource) -> io::Result<Self> {
        let pins: io::Result<Vec<_>> =
            (0..pins).map(|_| Ok(Pin { entry: MASKED, vector: source.vector()? })).collect();
        Ok(Self { select: 0, id: 0, pins: pins? })
    }

    /// The interrupt that arrives at pin `gsi`.
    pub fn interrupt(&self, gsi: Gsi) -> io::Result<Interrupt> {
        let pin = self.pins.get(gsi.0 as usize).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Interrupt::from_eventfd(pin.vector.eventfd().try_clone()?))
    }

    /// The same, for another process to raise as well.
    pub fn lent_interrupt(&self, gsi: Gsi) -> io::Result<Interrupt> {
        let pin = self.pins.get(gsi.0 as usize).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.interrupt(gsi)?.with_lent(pin.vector.lend()?))
    }

    fn read_register(&self) -> u32 {
        match self.select {
            REG_ID | REG_ARBITRATION => self.id,
            REG_VERSION => VERSION | (u32::try_from(self.pins.len()).unwrap_or(1).saturating_sub(1)) << 16,
            _ => self.pin().map_or(0, |(pin, high)| half(pin.entry, high)),
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.select == REG_ID {
            self.id = value & ID_MASK;
        } else if let Some((index, high)) = self.index()
            && let Some(pin) = self.pins.get_mut(index)
        {
            let old = pin.entry;
            pin.entry = if high {
                old & 0xffff_ffff | u64::from(value) << 32
            } else {
                old & !0xffff_ffff | u64::from(value) & !READ_ONLY
            };
            pin.apply(old);
        }
    }

    fn index(&self) -> Option<(usize, bool)> {
        let at = self.select.checked_sub(REG_TABLE)?;
        Some((usize::from(at / 2), at % 2 == 1))
    }

    fn pin(&self) -> Option<(&Pin, bool)> {
        let (index, high) = self.index()?;
        Some((self.pins.get(index)?, high))
    }
}

#[allow(clippy::cast_possible_truncation)] // the two halves of a 64-bit entry
fn half(entry: u64, high: bool) -> u32 {
    if high { (entry >> 32) as u32 } else { entry as u32 }
}

impl Pin {
    /// Has the vector follow the entry. A host that refuses leaves the pin silent, as broken hardware would be.
    fn apply(&self, old: u64) {
        if self.entry & MASKED != 0 {
            if old & MASKED == 0 && self.vector.mask().is_err() {
                crate::warn_of_guest!("an I/O APIC pin could not be masked");
            }
        } else if old != self.entry && self.vector.unmask(self.address(), self.data()).is_err() {
            crate::warn_of_guest!("an I/O APIC pin could not be routed");
        }
    }

    /// Intel SDM vol. 3A, 11.11.1: destination in bits 12-19, its mode in bit 2.
    fn address(&self) -> u64 {
        let logical = if self.entry & DEST_LOGICAL != 0 { 1 << 2 } else { 0 };
        0xfee0_0000 | (self.entry >> 56) << 12 | logical
    }

    /// Intel SDM vol. 3A, 11.11.2.
    #[allow(clippy::cast_possible_truncation)] // the mask keeps 16 bits
    fn data(&self) -> u32 {
        (self.entry & DATA_BITS) as u32
    }
}

impl BusDevice for IoApic {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        let value = match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_register(),
            _ => 0,
        };
        out.fill(0);
        out.iter_mut().zip(value.to_le_bytes()).for_each(|(o, b)| *o = b);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut raw = [0; 4];
        raw.iter_mut().zip(data).for_each(|(r, b)| *r = *b);
        match offset {
            IOREGSEL => self.select = raw[0],
            // The window takes 32-bit accesses only (82093AA, 3.0).
            IOWIN if data.len() == 4 => self.write_register(u32::from_le_bytes(raw)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use vmm_sys_util::eventfd::EventFd;

    /// Messages a vector was given, `None` for being masked.
    type Message = Option<(u64, u32)>;
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<Message>>>);
    struct Vector(EventFd, Log);
    impl MsiVector for Vector {
        fn eventfd(&self) -> &EventFd {
            &self.0
        }
        fn lend(&self) -> io::Result<EventFd> {
            self.0.try_clone()
        }
        fn unmask(&self, address: u64, data: u32) -> io::Result<()> {
            self.1.0.lock().expect("log").push(Some((address, data)));
            Ok(())
        }
        fn mask(&self) -> io::Result<()> {
            self.1.0.lock().expect("log").push(None);
            Ok(())
        }
    }
    impl MsiSource for Log {
        fn vector(&self) -> io::Result<Box<dyn MsiVector>> {
            Ok(Box::new(Vector(EventFd::new(0)?, self.clone())))
        }
    }

    fn write(chip: &mut IoApic, register: u8, value: u32) {
        chip.write(IOREGSEL, &u32::from(register).to_le_bytes());
        chip.write(IOWIN, &value.to_le_bytes());
    }

    fn read(chip: &mut IoApic, register: u8) -> u32 {
        chip.write(IOREGSEL, &[register]);
        let mut out = [0; 4];
        chip.read(IOWIN, &mut out);
        u32::from_le_bytes(out)
    }

    #[test]
    fn the_version_register_tells_the_highest_pin() {
        let mut chip = IoApic::new(5, &Log::default()).expect("a chip");
        assert_eq!(read(&mut chip, REG_VERSION), 0x0004_0011);
    }

    #[test]
    fn an_unmasked_entry_becomes_a_message_and_a_masked_one_is_held_back() {
        let log = Log::default();
        let mut chip = IoApic::new(5, &log).expect("a chip");
        write(&mut chip, 0x19, 3 << 24);
        assert!(log.0.lock().expect("log").is_empty(), "still masked");
        write(&mut chip, 0x18, 0x0831);
        write(&mut chip, 0x18, 1 << 16 | 0x0831);
        assert_eq!(*log.0.lock().expect("log"), [Some((0xfee0_3004, 0x31)), None]);
        assert_eq!(read(&mut chip, 0x19), 3 << 24);
    }

    #[test]
    fn the_chip_writes_its_status_bits_itself() {
        let mut chip = IoApic::new(1, &Log::default()).expect("a chip");
        write(&mut chip, 0x10, !0);
        assert_eq!(u64::from(read(&mut chip, 0x10)) & READ_ONLY, 0);
    }

    #[test]
    fn pins_that_are_not_there_read_zero_and_take_nothing() {
        let mut chip = IoApic::new(2, &Log::default()).expect("a chip");
        for register in [0x14, 0x3f, 0xff, 0x03] {
            write(&mut chip, register, !0);
            assert_eq!(read(&mut chip, register), 0);
        }
        assert!(chip.interrupt(Gsi(2)).is_err());
    }

    #[test]
    fn accesses_of_any_width_and_place_are_harmless() {
        let mut chip = IoApic::new(2, &Log::default()).expect("a chip");
        for offset in 0..0x50 {
            for len in [1, 2, 4, 8] {
                chip.write(offset, &vec![0xff; len]);
                chip.read(offset, &mut vec![0; len]);
            }
        }
    }
}
