//! Streams, one way at a time.

use std::fs::File;
use std::io::{self, Read, Write};

use tests::peer::{Address, half_close};

/// What is read or written at once.
const BUFFER: usize = 64 << 10;

/// Reads to the end and answers how many bytes it was.
pub(super) fn drain(mut connection: File) {
    let len = read_all(&mut connection).unwrap_or_default();
    // A peer that vanished wants no answer.
    let _ = connection.write_all(&len.to_le_bytes());
}

/// Reads how many bytes are wanted and sends them.
pub(super) fn source(mut connection: File) {
    let mut len = [0; 8];
    if connection.read_exact(&mut len).is_ok() {
        let _ = write_all(&mut connection, u64::from_le_bytes(len));
    }
}

/// Sends `len` bytes to a drain, which must have read just them.
///
/// # Errors
/// The connection ends early, or the drain read something else.
pub fn push(to: &Address, len: u64) -> io::Result<()> {
    let mut connection = to.reach();
    write_all(&mut connection, len)?;
    half_close(&connection);
    let mut came = [0; 8];
    connection.read_exact(&mut came)?;
    all(len, u64::from_le_bytes(came))
}

/// Has a source send `len` bytes, and reads them.
///
/// # Errors
/// The connection ends early, or too late.
pub fn pull(from: &Address, len: u64) -> io::Result<()> {
    let mut connection = from.reach();
    connection.write_all(&len.to_le_bytes())?;
    all(len, read_all(&mut connection)?)
}

fn all(sent: u64, came: u64) -> io::Result<()> {
    if sent == came { Ok(()) } else { Err(io::Error::other(format!("{sent} bytes were sent, {came} came"))) }
}

fn read_all(connection: &mut File) -> io::Result<u64> {
    let (mut bytes, mut len) = (vec![0; BUFFER], 0);
    loop {
        match connection.read(&mut bytes)? {
            0 => return Ok(len),
            n => len += n as u64,
        }
    }
}

fn write_all(connection: &mut File, len: u64) -> io::Result<()> {
    let bytes = vec![0x5a; BUFFER];
    let mut left = len;
    while left > 0 {
        let part = left.min(BUFFER as u64);
        connection.write_all(bytes.get(..usize::try_from(part).unwrap_or(BUFFER)).unwrap_or_default())?;
        left -= part;
    }
    Ok(())
}
