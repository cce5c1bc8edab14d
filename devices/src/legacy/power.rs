//! ACPI's sleep control and status registers and the FADT's reset register (ACPI 6.5, 4.8.3.6 and 4.8.3.7), side
//! by side from [`super::ports::SLEEP_CONTROL`] on.

use super::ports::{RESET_VALUE, SLEEP_TYPE_OFF};
use super::{EventSink, GuestEvent};
use crate::bus::BusDevice;

const CONTROL: u64 = 0;
const RESET: u64 = 2;
/// SLP_EN: begin the transition.
const SLP_EN: u8 = 1 << 5;
/// SLP_TYP occupies bits 2 to 4.
const SLP_TYP_SHIFT: u8 = 2;

/// Three registers of one byte.
pub struct Power {
    sink: EventSink,
}

impl Power {
    /// Registers that tell `sink`.
    pub fn new(sink: EventSink) -> Self {
        Self { sink }
    }
}

impl BusDevice for Power {
    fn read(&mut self, _offset: u64, out: &mut [u8]) {
        // WAK_STS clear: the machine never wakes, it only starts.
        out.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first().copied()) {
            (CONTROL, Some(v)) if v & SLP_EN != 0 && v >> SLP_TYP_SHIFT & 7 == SLEEP_TYPE_OFF => {
                (self.sink)(GuestEvent::PowerOff);
            }
            (RESET, Some(RESET_VALUE)) => (self.sink)(GuestEvent::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_off_powers_off_and_the_reset_register_resets() {
        let (sink, told) = super::super::testing::sink();
        let mut power = Power::new(sink);
        power.write(CONTROL, &[SLEEP_TYPE_OFF << 2]);
        power.write(CONTROL, &[SLP_EN | 1 << 2]);
        power.write(1, &[0x80]);
        power.write(RESET, &[0]);
        assert!(told.lock().expect("told").is_empty(), "not enabled, another state, the status register");
        power.write(CONTROL, &[0x34]);
        power.write(RESET, &[1]);
        assert_eq!(*told.lock().expect("told"), [GuestEvent::PowerOff, GuestEvent::Reset]);
    }
}
