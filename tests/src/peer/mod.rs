//! Connections between host and guest, checked byte by byte: one code for both ends.
//!
//! On the host a test calls these functions; in the guest the program `peer` does, by its words:
//!
//! ```text
//! peer echo ADDRESS             gives back what comes, for ever; a connection's end ends that connection
//! peer sink ADDRESS             reads each connection to its end and answers with length and digest, for ever
//! peer call ADDRESS N BYTES     N connections at once, each of which has BYTES echoed
//! peer ping ADDRESS N           has 64 bytes echoed N times, one after the other
//! peer datagrams IP:PORT        gives back what comes over UDP, for ever
//! peer volley IP:PORT N BYTES   has N datagrams of BYTES given back, one after the other
//! peer send ADDRESS BYTES       sends BYTES to a sink and compares what it answers
//! peer mirror ADDRESS           gives back each message that comes, for ever
//! peer converse ADDRESS N       has messages of many sizes given back, as they were, N times
//! ```
//! An address is `vsock:CID:PORT`, `tcp:IP:PORT` (`tcp:[IP]:PORT`); for messages `seqpacket:CID:PORT`.

mod digest;
mod messages;
mod sys;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, VsockAddr, bind, connect, listen, setsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

pub use digest::{Digest, Pattern};
pub use messages::{converse, mirror};

/// Small, for a hundred of them; a buffer and little else.
const STACK: usize = 256 << 10;
const BUFFER: usize = 64 << 10;

/// Seconds that a peer has to begin to listen, for which its machine may have to boot, and to say the next word. Less than
/// [`crate::DEADLINE`], so that whoever waits in vain says so.
const PATIENCE: u32 = 180;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A context id and a port.
    Vsock(u32, u32),
    /// The same, for messages.
    Seqpacket(u32, u32),
    /// An address and a port, as std reads them.
    Tcp(String),
}

impl Address {
    /// Reads `vsock:CID:PORT`, `seqpacket:CID:PORT` or `tcp:IP:PORT`.
    pub fn parse(text: &str) -> Self {
        let (kind, rest) = text.split_once(':').expect("an address has a kind");
        match kind {
            "tcp" => Self::Tcp(rest.to_owned()),
            "vsock" | "seqpacket" => {
                let (cid, port) = rest.split_once(':').expect("a context id and a port");
                let (cid, port) = (cid.parse().expect("a context id"), port.parse().expect("a port"));
                if kind == "vsock" { Self::Vsock(cid, port) } else { Self::Seqpacket(cid, port) }
            }
            _ => panic!("{text} is no address"),
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn connect(&self) -> std::io::Result<File> {
        match self {
            Self::Tcp(to) => Ok(File::from(OwnedFd::from(TcpStream::connect(to)?))),
            Self::Vsock(cid, port) | Self::Seqpacket(cid, port) => {
                let socket = self.vsock()?;
                connect(socket.as_raw_fd(), &VsockAddr::new(*cid, *port))?;
                Ok(File::from(socket))
            }
        }
    }

    /// Connects, waiting for somebody to listen. A peer that is silent for long fails whoever waits for it.
    pub fn reach(&self) -> File {
        let end = Instant::now() + Duration::from_secs(PATIENCE.into());
        loop {
            match self.connect() {
                Ok(connection) => {
                    let patience = TimeVal::seconds(PATIENCE.into());
                    setsockopt(&connection, sockopt::ReceiveTimeout, &patience).expect("an option");
                    setsockopt(&connection, sockopt::SendTimeout, &patience).expect("an option");
                    return connection;
                }
                Err(why) => assert!(Instant::now() < end, "{self:?}: {why}"),
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has `serve` serve every connection to this address in a thread of its own, for ever.
    pub fn serve(&self, serve: fn(File)) {
        let listener = match self {
            Self::Tcp(at) => OwnedFd::from(TcpListener::bind(at).expect("the address is free")),
            Self::Vsock(cid, port) | Self::Seqpacket(cid, port) => {
                let socket = self.vsock().expect("a socket");
                bind(socket.as_raw_fd(), &VsockAddr::new(*cid, *port)).expect("the port is free");
                listen(&socket, Backlog::new(511).expect("a backlog")).expect("it listens");
                socket
            }
        };
        loop {
            let connection = File::from(sys::accept(&listener).expect("a connection"));
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn(move || serve(connection)).expect("a thread");
        }
    }

    /// A socket of the kind that the address asks for.
    fn vsock(&self) -> nix::Result<OwnedFd> {
        let of = |kind| socket(AddressFamily::Vsock, kind, SockFlag::SOCK_CLOEXEC, None);
        match self {
            Self::Seqpacket(..) => {
                let socket = of(SockType::SeqPacket)?;
                sys::holds(&socket, messages::HELD as u64)?;
                Ok(socket)
            }
            _ => of(SockType::Stream),
        }
    }
}

/// An open /dev/vhost-vsock with its context id, for a child to inherit.
pub fn vsock_node(cid: u64) -> File {
    let node =
        File::options().read(true).write(true).open("/dev/vhost-vsock").expect("the host has vhost-vsock");
    sys::set_cid(&node, cid).expect("the context id is free");
    inherited(node)
}

/// Has children inherit `file`.
pub fn inherited(file: File) -> File {
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag is set");
    file
}

/// Ends one direction of a connection.
pub fn half_close(connection: &File) {
    shutdown(connection.as_raw_fd(), Shutdown::Write).expect("half of it closes");
}

/// Gives back what comes. A peer that vanishes ends it.
pub fn echo(mut connection: File) {
    let mut bytes = vec![0; BUFFER];
    while let Ok(n @ 1..) = connection.read(&mut bytes) {
        if connection.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

/// Reads to the end and answers with what it read.
pub fn sink(mut connection: File) {
    let mut digest = Digest::default();
    let mut bytes = vec![0; BUFFER];
    while let Ok(n @ 1..) = connection.read(&mut bytes) {
        digest.add(&bytes[..n]);
    }
    // A peer that vanished wants no answer.
    let _ = connection.write_all(digest.to_string().as_bytes());
}

/// Sends `len` bytes to a sink, which must have read just them.
pub fn send(mut connection: File, len: usize) {
    let (mut pattern, mut digest) = (Pattern::new(len as u64), Digest::default());
    let mut bytes = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        let part = &mut bytes[..left.min(BUFFER)];
        pattern.fill(part);
        digest.add(part);
        connection.write_all(part).expect("the peer reads");
        left -= part.len();
    }
    half_close(&connection);
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("the peer answers");
    assert_eq!(answer, digest.to_string(), "what was sent and what came");
}

/// Has `len` bytes echoed over each of `n` connections that are open at once; each is half closed then, and must end.
pub fn call(address: &Address, n: usize, len: usize) {
    let connections: Vec<File> = (0..n).map(|_| address.reach()).collect();
    let callers: Vec<_> = (0..)
        .zip(connections)
        .map(|(i, connection)| {
            let thread = thread::Builder::new().stack_size(STACK);
            thread.spawn(move || exchange(connection, len, i)).expect("a thread")
        })
        .collect();
    callers.into_iter().for_each(|caller| caller.join().expect("bytes come back as they went"));
}

fn exchange(connection: File, len: usize, seed: u64) {
    let mut sent = vec![0; len];
    Pattern::new(seed).fill(&mut sent);
    // Written and read at once: an echo holds no more than a buffer.
    let mut writer = connection.try_clone().expect("a descriptor");
    let bytes = sent.clone();
    let thread = thread::Builder::new().stack_size(STACK);
    let writing = thread.spawn(move || {
        writer.write_all(&bytes).expect("the peer reads");
        half_close(&writer);
    });
    let mut came = Vec::with_capacity(len);
    let mut reader = connection;
    reader.read_to_end(&mut came).expect("the peer answers");
    writing.expect("a thread").join().expect("all was written");
    assert!(came == sent, "{} bytes went, {} came", sent.len(), came.len());
}

/// Has 64 bytes echoed `n` times, one after the other.
pub fn ping(mut connection: File, n: usize) {
    let (mut sent, mut came) = ([0; 64], [0; 64]);
    let mut pattern = Pattern::new(n as u64);
    for _ in 0..n {
        pattern.fill(&mut sent);
        connection.write_all(&sent).expect("the peer reads");
        connection.read_exact(&mut came).expect("the peer answers");
        assert_eq!(came, sent);
    }
}

/// Gives back each datagram that comes to `at`, for ever.
pub fn datagrams(at: &str) {
    let socket = UdpSocket::bind(at).expect("the address is free");
    let mut bytes = vec![0; BUFFER];
    loop {
        let (len, from) = socket.recv_from(&mut bytes).expect("a datagram");
        // Whoever sent it may be gone.
        let _ = socket.send_to(&bytes[..len], from);
    }
}

/// Has `n` datagrams of `len` bytes given back by `to`, one after the other. One that is lost is sent again: a network
/// may lose datagrams, but not for ever.
pub fn volley(to: &str, n: usize, len: usize) {
    let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    socket.connect(to).expect("an address");
    let (mut sent, mut came) = (vec![0; len], vec![0; BUFFER]);
    let mut pattern = Pattern::new(len as u64);
    // Each costs a second at most: an answer that was only late is one, and so is the one to what was sent meanwhile.
    let mut again = 100;
    let end = Instant::now() + Duration::from_secs(PATIENCE.into());
    for _ in 0..n {
        pattern.fill(&mut sent);
        loop {
            let back = socket.send(&sent).and_then(|_| socket.recv(&mut came));
            match back {
                Ok(back) if came[..back] == sent => break,
                // One of those sent twice, perhaps; never many in a row.
                Ok(back) => {
                    assert_eq!(back, len, "a datagram of another length");
                    assert!(again > 0, "{to}: datagrams of {len} bytes come back changed");
                    again -= 1;
                }
                // Nobody listens yet.
                Err(why) if why.kind() == std::io::ErrorKind::ConnectionRefused => {
                    assert!(Instant::now() < end, "{to}: {why}");
                    thread::sleep(Duration::from_millis(100));
                }
                Err(why) => {
                    assert!(again > 0, "{to}: {why}");
                    again -= 1;
                }
            }
        }
    }
}

/// Does what `words` say, as the program `peer`.
pub fn run(words: &[&str]) {
    let number = |text: &str| text.parse().expect("a number");
    match words {
        ["echo", address] => Address::parse(address).serve(echo),
        ["sink", address] => Address::parse(address).serve(sink),
        ["call", address, n, len] => call(&Address::parse(address), number(n), number(len)),
        ["ping", address, n] => ping(Address::parse(address).reach(), number(n)),
        ["datagrams", at] => datagrams(at),
        ["volley", to, n, len] => volley(to, number(n), number(len)),
        ["send", address, len] => send(Address::parse(address).reach(), number(len)),
        ["mirror", address] => Address::parse(address).serve(mirror),
        ["converse", address, n] => converse(Address::parse(address).reach(), number(n)),
        _ => panic!("peer does not know {words:?}"),
    }
}

/// The program, built with the tests.
pub fn program() -> PathBuf {
    // target/TARGET/PROFILE/deps/test-HASH, and beside deps the package's programs.
    let me = std::env::current_exe().expect("this program's path");
    let path = me.ancestors().nth(2).expect("a folder").join("peer");
    assert!(path.exists(), "{} is not built", path.display());
    path
}
