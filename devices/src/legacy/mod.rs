//! The PC's small devices that a Linux guest still looks for, and two ports of our own.
//!
//! Each is a [`crate::bus::BusDevice`] on the port bus (the I/O APIC: on the memory bus) behind one lock, held
//! for one access. What a device learns about the machine's fate goes out through an [`EventSink`].

use std::sync::Arc;

pub mod boot_mark;
pub mod i8042;
pub mod ioapic;
pub mod ports;
pub mod power;
pub mod pvpanic;
pub mod rtc;
pub mod serial;

/// What a guest says about itself through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// It powered off.
    PowerOff,
    /// It asked for a reset.
    Reset,
    /// Its kernel panicked.
    Panicked,
    /// Its kernel panicked and a crash kernel takes over.
    CrashLoaded,
    /// Its init reached a phase.
    Mark(u8),
    /// Its command ended with this exit status.
    Status(u8),
}

/// Told about every event, on the vCPU's thread: must return at once.
pub type EventSink = Arc<dyn Fn(GuestEvent) + Send + Sync>;

#[cfg(test)]
mod testing {
    use super::{EventSink, GuestEvent};
    use std::sync::{Arc, Mutex};

    /// A sink and what it was told.
    pub(super) fn sink() -> (EventSink, Arc<Mutex<Vec<GuestEvent>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        (Arc::new(move |event| log.lock().expect("log").push(event)), told)
    }

    /// Every offset of the first 16 and every width, written and read.
    pub(super) fn poke(device: &mut dyn crate::bus::BusDevice) {
        for offset in 0..16 {
            for len in [1, 2, 3, 4, 8] {
                for fill in [0x00, 0x5a, 0xff] {
                    device.write(offset, &vec![fill; len]);
                    device.read(offset, &mut vec![0xff; len]);
                }
            }
        }
    }
}
