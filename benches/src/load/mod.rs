//! Work for a machine's devices: one code for both ends, the guest's program `load` and the host that gives it work.
//!
//! 1. In the guest [`serve`] waits on fixed ports: streams over TCP and over vsock, datagrams over UDP, and orders for
//!    what only a guest can do.
//! 2. The host's functions ([`push`], [`pull`], [`Datagrams`], [`Order`]) each do one fixed piece of work and return when
//!    its last byte is there. Nothing is digested on the way: what is timed is the way, and counts and stamps tell
//!    whether everything came.

mod datagrams;
mod disk;
mod files;
mod order;
mod stream;

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::thread;

use tests::peer::{self, Address};

pub use datagrams::{BURST, Datagrams};
pub use disk::{Disk, image};
pub use files::{Files, Kind, MOUNTED};
pub use order::{Order, ask};
pub use stream::{pull, push};

/// Reads a connection to its end.
pub const DRAIN: u16 = 5001;
/// Sends as much as it is asked for.
pub const SOURCE: u16 = 5002;
/// Gives back what comes.
pub const ECHO: u16 = 5003;
/// Datagrams of all kinds.
pub const DATAGRAMS: u16 = 5004;
/// Takes orders.
pub const ORDERS: u16 = 5005;

/// `VMADDR_CID_ANY`.
const ANY: u32 = u32::MAX;

/// Serves a host for ever, or until it orders the end.
///
/// # Errors
/// The port for datagrams is taken.
pub fn serve() -> io::Result<()> {
    let services: [(u16, fn(File)); 3] =
        [(DRAIN, stream::drain), (SOURCE, stream::source), (ECHO, peer::echo)];
    for (port, service) in services {
        thread::spawn(move || Address::Tcp(format!("0.0.0.0:{port}")).serve(service));
        thread::spawn(move || Address::Vsock(ANY, port.into()).serve(service));
    }
    let socket = UdpSocket::bind(("0.0.0.0", DATAGRAMS))?;
    thread::spawn(move || datagrams::serve(&socket));
    Address::Vsock(ANY, ORDERS.into()).serve(order::obey);
    Ok(())
}
