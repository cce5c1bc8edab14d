//! Two ports of our own: the guest's init marks a boot phase on one and reports an exit status on the other.
//!
//! Both are write-only bytes; reading gives all ones, like an absent port. A guest that never writes them loses
//! nothing but the report.

use super::{EventSink, GuestEvent};
use crate::bus::BusDevice;

/// Pid 1 has been entered.
pub const MARK_INIT: u8 = 1;
/// Its kernel modules are loaded.
pub const MARK_MODULES: u8 = 2;
/// It is about to run the command.
pub const MARK_COMMAND: u8 = 3;

/// One of the two ports: each byte written becomes an event.
pub struct BytePort {
    sink: EventSink,
    event: fn(u8) -> GuestEvent,
}

impl BytePort {
    /// The port of boot marks.
    pub fn marks(sink: EventSink) -> Self {
        Self { sink, event: GuestEvent::Mark }
    }

    /// The port of the exit status.
    pub fn status(sink: EventSink) -> Self {
        Self { sink, event: GuestEvent::Status }
    }
}

impl BusDevice for BytePort {
    fn read(&mut self, _offset: u64, _out: &mut [u8]) {}

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0
            && let Some(byte) = data.first()
        {
            (self.sink)((self.event)(*byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_written_is_a_mark_or_a_status() {
        let (sink, told) = super::super::testing::sink();
        BytePort::marks(sink.clone()).write(0, &[MARK_COMMAND]);
        BytePort::status(sink).write(0, &[7]);
        assert_eq!(*told.lock().expect("told"), [GuestEvent::Mark(3), GuestEvent::Status(7)]);
    }
}
