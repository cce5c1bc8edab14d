//! COM1: a 16550A over vm-superio's registers.
//!
//! A byte out is one exit and one lock. Input waits in the console's backend, bounded there, and moves into the
//! port's 64-byte FIFO as the guest reads: nothing is lost and nothing grows (CVE-2020-27173).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

use crate::bus::BusDevice;
use crate::chardev::{Chardev, InputEnd, Output};
use crate::interrupt::Interrupt;

/// The receive buffer register.
const RBR: u8 = 0;

struct Line(Interrupt);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.raise();
        Ok(())
    }
}

struct Sink(Box<dyn Output>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The port's registers.
pub struct SerialPort {
    uart: Serial<Line, NoEvents, Sink>,
    input: InputEnd,
}

impl SerialPort {
    /// A port that talks to `console` and raises `interrupt`, wired so that input reaches the guest.
    pub fn attach(console: &Chardev, interrupt: Interrupt) -> Arc<Mutex<Self>> {
        let uart = Serial::new(Line(interrupt), Sink(console.output()));
        let port = Arc::new(Mutex::new(Self { uart, input: console.input() }));
        // Weak: the console's thread must not keep the port alive.
        let weak = Arc::downgrade(&port);
        console.input().on_input(move || {
            if let Some(port) = weak.upgrade() {
                port.lock().unwrap_or_else(PoisonError::into_inner).refill();
            }
        });
        port
    }

    /// Moves waiting input into the FIFO, as much as fits.
    fn refill(&mut self) {
        let mut buf = [0; 64];
        let room = self.uart.fifo_capacity().min(buf.len());
        let buf = buf.get_mut(..room).unwrap_or_default();
        let n = self.input.take(buf);
        if n > 0 {
            // It fails in loopback mode, when the line is cut, and then input is lost as on a real one.
            let _ = self.uart.enqueue_raw_bytes(buf.get(..n).unwrap_or_default());
        }
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        if let (Ok(offset), Some(first)) = (u8::try_from(offset), out.first_mut()) {
            *first = self.uart.read(offset);
            if offset == RBR {
                self.refill();
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Some(first)) = (u8::try_from(offset), data.first()) {
            // Its only errors are the trigger's and the sink's, which have none.
            let _ = self.uart.write(offset, *first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chardev::Target;
    use crate::confine::Confinement;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    const IER: u64 = 1;
    const LSR: u64 = 5;
    const DATA_READY: u8 = 1;

    fn read(port: &Mutex<SerialPort>, offset: u64) -> u8 {
        let mut out = [0xff];
        port.lock().expect("port").read(offset, &mut out);
        out[0]
    }

    #[test]
    fn bytes_go_out_and_more_come_in_than_the_fifo_holds() {
        let path = std::env::temp_dir().join(format!("kiwi-serial-{}", std::process::id()));
        let console = Chardev::new(Target::socket(&path).expect("binds")).expect("made");
        let raised = Arc::new(AtomicU32::new(0));
        let count = raised.clone();
        let port = SerialPort::attach(
            &console,
            Interrupt::from_fn(move || _ = count.fetch_add(1, Ordering::SeqCst)),
        );
        port.lock().expect("port").write(IER, &[1]);
        let _pump = console.start("test", &Confinement::none()).expect("starts");
        let mut client = UnixStream::connect(&path).expect("connects");
        port.lock().expect("port").write(0, b"A");
        let mut out = [0];
        client.read_exact(&mut out).expect("reads");
        assert_eq!(&out, b"A");
        let sent: Vec<u8> = (0..200).collect();
        client.write_all(&sent).expect("writes");
        let mut got = Vec::new();
        while got.len() < sent.len() {
            if read(&port, LSR) & DATA_READY != 0 {
                got.push(read(&port, 0));
            }
        }
        assert_eq!(got, sent);
        assert!(raised.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn accesses_of_any_width_and_place_are_harmless() {
        let console = Chardev::new(Target::Null).expect("made");
        let port = SerialPort::attach(&console, Interrupt::none());
        super::super::testing::poke(&mut *port.lock().expect("port"));
    }
}
