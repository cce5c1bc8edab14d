//! The keyboard controller, of which a sandbox needs one thing: the pulse that resets the machine.
//!
//! No keyboard and no mouse are behind it, and the tables say so; a kernel that probes all the same finds an
//! idle controller with nothing to read.

use super::{EventSink, GuestEvent};
use crate::bus::BusDevice;

/// Offset of the command and status port from the data port.
const COMMAND: u64 = 4;
/// Pulse output line 0, which is the processor's reset.
const PULSE_RESET: u8 = 0xfe;

/// Ports 0x60 to 0x64.
pub struct I8042 {
    sink: EventSink,
}

impl I8042 {
    /// A controller that tells `sink` about a reset.
    pub fn new(sink: EventSink) -> Self {
        Self { sink }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        // Status 0: neither buffer is full. The ports in between belong to no device and float.
        if offset == 0 || offset == COMMAND {
            out.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == COMMAND && data.first() == Some(&PULSE_RESET) {
            (self.sink)(GuestEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_pulse_resets() {
        let (sink, told) = super::super::testing::sink();
        let mut i8042 = I8042::new(sink);
        super::super::testing::poke(&mut i8042);
        assert!(told.lock().expect("told").is_empty());
        i8042.write(COMMAND, &[PULSE_RESET]);
        assert_eq!(*told.lock().expect("told"), [GuestEvent::Reset]);
    }

    #[test]
    fn a_probing_kernel_finds_both_buffers_empty() {
        let mut out = [0xff];
        I8042::new(super::super::testing::sink().0).read(COMMAND, &mut out);
        assert_eq!(out[0] & 3, 0);
    }
}
