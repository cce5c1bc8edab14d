//! Small datagrams in bursts, short enough for any queue on the way: none may be lost.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// Datagrams of a burst.
pub const BURST: u32 = 64;
/// Bytes of a datagram.
const SIZE: usize = 64;
/// One that is waited for longer is lost.
const PATIENCE: Duration = Duration::from_secs(3);

/// A datagram's first byte: one of a burst; its last, to be answered with how many came; a burst is wanted.
const ONE: u8 = 1;
const LAST: u8 = 2;
const WANTED: u8 = 3;

/// Serves the other end for ever.
pub(super) fn serve(socket: &UdpSocket) {
    let (mut bytes, mut came) = ([0; SIZE], 0u32);
    while let Ok((_, from)) = socket.recv_from(&mut bytes) {
        came += 1;
        match bytes.first() {
            Some(&LAST) => {
                // Whoever sent it may be gone.
                let _ = socket.send_to(&came.to_le_bytes(), from);
                came = 0;
            }
            Some(&WANTED) => {
                (0..BURST).for_each(|_| _ = socket.send_to(&[ONE; SIZE], from));
                came = 0;
            }
            _ => {}
        }
    }
}

/// The host's end.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Datagrams to and from the guest at `ip`.
    ///
    /// # Errors
    /// There is no way there.
    pub fn to(ip: &str) -> io::Result<Self> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.connect((ip, super::DATAGRAMS))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(socket))
    }

    /// Sends bursts.
    ///
    /// # Errors
    /// A datagram is lost.
    pub fn push(&self, bursts: u32) -> io::Result<()> {
        for _ in 0..bursts {
            for _ in 1..BURST {
                self.0.send(&[ONE; SIZE])?;
            }
            self.0.send(&[LAST; SIZE])?;
            let mut came = [0; 4];
            self.0.recv(&mut came)?;
            let came = u32::from_le_bytes(came);
            if came != BURST {
                return Err(io::Error::other(format!("{came} of {BURST} datagrams came")));
            }
        }
        Ok(())
    }

    /// Has bursts sent.
    ///
    /// # Errors
    /// A datagram is lost.
    pub fn pull(&self, bursts: u32) -> io::Result<()> {
        let mut bytes = [0; SIZE];
        for _ in 0..bursts {
            self.0.send(&[WANTED; SIZE])?;
            for _ in 0..BURST {
                self.0.recv(&mut bytes)?;
            }
        }
        Ok(())
    }
}
