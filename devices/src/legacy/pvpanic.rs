//! PVPANIC (QEMU docs/specs/pvpanic): the port by which a guest's kernel says that it has panicked, so that a
//! panic is told from a reset.

use super::{EventSink, GuestEvent};
use crate::bus::BusDevice;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// One byte: read for the events supported, written with the events that happened.
pub struct PvPanic {
    sink: EventSink,
}

impl PvPanic {
    /// A port that tells `sink`.
    pub fn new(sink: EventSink) -> Self {
        Self { sink }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, _offset: u64, out: &mut [u8]) {
        out.fill(0);
        if let Some(first) = out.first_mut() {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let events = data.first().copied().unwrap_or(0);
        if events & CRASH_LOADED != 0 {
            (self.sink)(GuestEvent::CrashLoaded);
        } else if events & PANICKED != 0 {
            (self.sink)(GuestEvent::Panicked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_from_a_crash_that_is_being_handled() {
        let (sink, told) = super::super::testing::sink();
        let mut port = PvPanic::new(sink);
        port.write(0, &[0]);
        port.write(0, &[1]);
        port.write(0, &[2]);
        assert_eq!(*told.lock().expect("told"), [GuestEvent::Panicked, GuestEvent::CrashLoaded]);
    }

    #[test]
    fn a_read_tells_which_events_are_understood() {
        let mut out = [0xff; 4];
        PvPanic::new(super::super::testing::sink().0).read(0, &mut out);
        assert_eq!(out, [3, 0, 0, 0]);
    }
}
