//! The CMOS real-time clock (Motorola MC146818A) at ports 0x70 and 0x71.
//!
//! Reads the host's clock, in UTC and BCD as firmware leaves it. Nothing ticks: no interrupt, no update in
//! progress, and setting the clock changes nothing but what is read back of the alarm and of the RAM. A kernel
//! that finds no such chip polls for twenty thousand exits before it gives up.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;

const INDEX: u64 = 0;
const DATA: u64 = 1;
/// Bit 7 of the index port masks NMIs.
const INDEX_MASK: u8 = 0x7f;

const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
const REG_CENTURY: u8 = 0x32;

/// Divider on at 32.768 kHz, 1024 Hz rate, no update in progress.
const A_RUNNING: u8 = 0x26;
/// 24-hour mode, BCD.
const B_24H: u8 = 0x02;
/// The battery is good: RAM and time are valid.
const D_VALID: u8 = 0x80;

type Clock = Box<dyn Fn() -> u64 + Send>;

/// The chip.
pub struct Rtc {
    index: u8,
    ram: [u8; 128],
    /// Seconds since 1970, UTC.
    clock: Clock,
}

impl Default for Rtc {
    fn default() -> Self {
        Self::with_clock(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

impl Rtc {
    /// A chip whose time comes from `clock`, in seconds since 1970.
    pub fn with_clock(clock: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { index: 0, ram: [0; 128], clock: Box::new(clock) }
    }

    fn register(&self) -> u8 {
        match self.index {
            REG_A => A_RUNNING,
            REG_B => B_24H,
            REG_C => 0,
            REG_D => D_VALID,
            0 | 2 | 4 | 6..=9 | REG_CENTURY => bcd(field(self.index, (self.clock)())),
            index => self.ram.get(usize::from(index)).copied().unwrap_or(0),
        }
    }
}

/// The part of the time that register `index` shows.
fn field(index: u8, now: u64) -> u64 {
    let (days, second) = (now / 86_400, now % 86_400);
    let (year, month, day) = civil(days);
    match index {
        0 => second % 60,
        2 => second / 60 % 60,
        4 => second / 3600,
        6 => (days + 4) % 7 + 1, // 1 is Sunday; 1970 began on a Thursday
        7 => day,
        8 => month,
        9 => year % 100,
        _ => year / 100,
    }
}

fn bcd(value: u64) -> u8 {
    u8::try_from(value / 10 * 16 + value % 10).unwrap_or(0)
}

/// Days since 1970-01-01 as year, month and day of the Gregorian calendar. Counted in eras of 400 years that
/// begin on 1 March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (era * 400 + yoe + u64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        // The index is write-only; wide accesses get the first byte and floating lines.
        if let (DATA, Some(first)) = (offset, out.first_mut()) {
            *first = self.register();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data.first()) {
            (INDEX, Some(v)) => self.index = v & INDEX_MASK,
            (DATA, Some(v)) => {
                if let Some(cell) = self.ram.get_mut(usize::from(self.index)) {
                    *cell = *v;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(rtc: &mut Rtc, index: u8) -> u8 {
        rtc.write(INDEX, &[index]);
        let mut out = [0xff];
        rtc.read(DATA, &mut out);
        out[0]
    }

    #[test]
    fn the_leap_day_of_2024_reads_as_such() {
        // 2024-02-29 23:59:58 UTC, a Thursday.
        let mut rtc = Rtc::with_clock(|| 1_709_251_198);
        let read: Vec<u8> = [0x32, 9, 8, 7, 6, 4, 2, 0].iter().map(|i| get(&mut rtc, *i)).collect();
        assert_eq!(read, [0x20, 0x24, 0x02, 0x29, 5, 0x23, 0x59, 0x58]);
    }

    #[test]
    fn the_clock_is_never_caught_updating_and_says_it_is_valid() {
        let mut rtc = Rtc::default();
        assert_eq!(get(&mut rtc, REG_A) & 0x80, 0);
        assert_eq!(get(&mut rtc, REG_D), D_VALID);
    }

    #[test]
    fn its_ram_keeps_what_is_written_and_its_time_does_not() {
        let mut rtc = Rtc::with_clock(|| 0);
        for index in [0x0f, 0x40, 0x7f] {
            rtc.write(INDEX, &[index]);
            rtc.write(DATA, &[0xa5]);
            assert_eq!(get(&mut rtc, index), 0xa5);
        }
        rtc.write(INDEX, &[9]);
        rtc.write(DATA, &[0x99]);
        assert_eq!(get(&mut rtc, 9), 0x70);
        super::super::testing::poke(&mut rtc);
    }

    proptest! {
        #[test]
        fn every_day_is_one_after_the_last(days in 0u64..200_000) {
            let (a, b) = (civil(days), civil(days + 1));
            prop_assert!(b > a);
            prop_assert!((1..=12).contains(&b.1) && (1..=31).contains(&b.2));
            prop_assert!(b.2 == a.2 + 1 || b.2 == 1);
        }
    }
}
