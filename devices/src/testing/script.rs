//! A driver that does what bytes say, for fuzz targets: chains of any form, registers, memory, resets, at any moment.

use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::{Buffer, Driver};
use crate::virtio::spec::status;

/// How long a chain is waited for. A device that holds it back is none to wait for.
const PATIENCE: Duration = Duration::from_millis(2);

/// The bytes that are left.
struct Bytecode<'a>(&'a [u8]);

impl Bytecode<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(number.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn bytes(&mut self, n: usize) -> &[u8] {
        let (bytes, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Does what `script` says, from a live device on, and resets the device at the end.
pub fn play(driver: &mut Driver, script: &[u8]) {
    driver.start(u64::MAX);
    let mut script = Bytecode(script);
    let mut out = 0;
    while let Some(op) = script.byte() {
        if step(driver, &mut script, op, &mut out).is_none() {
            break;
        }
    }
    settle(driver, &mut out);
    driver.set_status(0);
}

/// One step; `None` at the script's end. `out` counts chains that have not come back.
fn step(driver: &mut Driver, script: &mut Bytecode<'_>, op: u8, out: &mut usize) -> Option<()> {
    let (queue, few) = (usize::from(op >> 4) % driver.rings.len(), usize::from(op >> 4));
    match op & 0xf {
        // Memory of the first 64 KiB, where buffers are.
        0..=3 => {
            let at = script.number::<2>()?;
            let bytes = script.bytes(4 * (few + 1)).to_vec();
            driver.ram.memory().write_slice(&bytes, GuestAddress(at)).expect("in memory");
        }
        // A chain of sensible buffers.
        4..=9 => {
            let mut buffers = Vec::new();
            for _ in 0..=script.byte()? % 5 {
                let (at, len) = (script.number::<2>()?, script.number::<2>()?);
                // The highest bit says who may write.
                buffers.push(Buffer { at, len: (len & 0x7fff) as u32, writable: len & 0x8000 != 0 });
            }
            driver.rings[queue].add(&buffers);
            driver.notify(queue as u16);
            *out += 1;
        }
        // A descriptor of any kind, offered or not.
        10 => {
            let (index, at, len) = (script.number::<1>()?, script.number::<8>()?, script.number::<4>()?);
            let (flags, next) = (script.number::<2>()?, script.number::<2>()?);
            driver.rings[queue].descriptor(index as u16, at, len as u32, flags as u16, next as u16);
        }
        11 => {
            driver.rings[queue].offer(u16::from(script.byte()?), u16::from(script.byte()? & 3));
            driver.notify(queue as u16);
        }
        12 => {
            let (at, value) = (script.number::<1>()?, script.number::<8>()?.to_le_bytes());
            let base = if driver.window() == 0x1000 { 0x100 } else { 0x1000 };
            driver.poke(base + at, &value[..1 << (few & 3)]);
            driver.config(at, 1 << (few & 3));
        }
        13 => {
            let (at, value) = (script.number::<1>()?, script.number::<4>()?.to_le_bytes());
            driver.poke(at, &value);
        }
        14 => settle(driver, out),
        _ => {
            driver.set_status(0);
            driver.start(script.number::<8>()?);
            *out = 0;
        }
    }
    Some(())
}

/// Waits until all chains have come back, or the device will not give them back.
fn settle(driver: &mut Driver, out: &mut usize) {
    let end = Instant::now() + PATIENCE;
    while *out > 0 && Instant::now() < end && driver.status() & status::DEVICE_NEEDS_RESET == 0 {
        for ring in &mut driver.rings {
            while ring.used().is_some() {
                *out = out.saturating_sub(1);
            }
        }
        std::thread::yield_now();
    }
    *out = 0;
}
