//! A guest that sends whatever it likes: drives the daemon's request path, from a ring to the reply, without a VMM.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing
#![allow(clippy::cast_possible_truncation)] // small numbers all

mod vmm;

use std::path::Path;
use std::sync::Arc;

use devices::memory::GuestRam;
use devices::testing::{Buffer, Ring};
use fuse_backend_rs::api::server::Server;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::bridge::Memory;
use super::fs::Shared;
use super::options::{Invocation, Options, parse};
pub use vmm::{Asked, Vmm};

/// Where requests and replies lie, in the first region of the tests' memory, and how long they may be.
const REQUEST: u64 = 0x1000;
const REPLY: u64 = 0x8_0000;
const ROOM: u32 = 0x4_0000;
/// Bytes of a reply's head: length, error, number.
const HEAD: usize = 16;

pub struct Guest {
    pub ram: GuestRam,
    memory: Memory,
    ring: Ring,
    queue: Queue,
    pub shared: Arc<Shared>,
    server: Server<Arc<Shared>>,
    /// Who asks.
    pub user: u32,
    unique: u64,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// 0 or a negated errno, as on the wire, made positive.
    pub errno: i32,
    pub body: Vec<u8>,
}

/// Options as the words say, for `dir`.
pub fn options(dir: &Path, words: &[&str]) -> Options {
    let base = ["--fd=3".to_owned(), format!("--shared-dir={}", dir.display())];
    let words = base.into_iter().chain(words.iter().map(|word| (*word).to_owned()));
    match parse(words.map(Into::into)).expect("options") {
        Invocation::Serve(options) => *options,
        Invocation::Print(_) => unreachable!("nothing to print"),
    }
}

/// The file system of a directory, without a sandbox.
pub fn shared(options: &Options) -> Shared {
    let folder = |path: &Path| {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).expect("a folder")
    };
    let (root, descriptors) = (folder(&options.shared), folder("/proc/self/fd".as_ref()));
    Shared::new(options, root, descriptors).expect("a shared directory")
}

impl Guest {
    /// A guest of `dir`, served as `words` say. The calling thread is the one that serves.
    pub fn new(dir: &Path, words: &[&str]) -> Self {
        let options = options(dir, words);
        let shared = Arc::new(shared(&options));
        shared.enter().expect("a thread of its own");
        let ram = devices::testing::ram();
        let ring = Ring::new(&ram, 64, 0x1000_0000);
        let mut queue = Queue::new(64).expect("a queue");
        queue.set_desc_table_address(Some(ring.layout.desc as u32), Some(0));
        queue.set_avail_ring_address(Some(ring.layout.avail as u32), Some(0));
        queue.set_used_ring_address(Some(ring.layout.used as u32), Some(0));
        queue.set_ready(true);
        let memory = Memory::new((*ram.memory()).clone()).expect("memory");
        let server = Server::new(shared.clone());
        let mut guest = Self { ram, memory, ring, queue, shared, server, user: 0, unique: 0 };
        // INIT, version 7.36, every flag.
        let init: Vec<u8> =
            [7, 36, 1 << 20, u32::MAX, u32::MAX].iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        let init = [init, vec![0; 44]].concat();
        assert_eq!(guest.call(26, 0, &init).errno, 0);
        guest
    }

    /// Sends bytes with room for a reply of `room`; the reply as it is.
    pub fn raw(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        let memory = self.ram.memory();
        memory.write_slice(request, GuestAddress(REQUEST)).expect("in memory");
        // So that what was not written is told from an earlier reply's; all of it would take most of a test's time.
        memory.write_slice(&vec![0; room.min(4096) as usize], GuestAddress(REPLY)).expect("in memory");
        drop(memory);
        let request = Buffer { at: REQUEST, len: request.len() as u32, writable: false };
        let reply = Buffer { at: REPLY, len: room, writable: true };
        let buffers = [request, reply];
        let len = self.chain(if room > 0 { &buffers } else { &buffers[..1] }).min(room);
        let mut bytes = vec![0; len as usize];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(REPLY)).expect("in memory");
        bytes
    }

    /// Sends whatever lies in these buffers; the length of the reply.
    pub fn chain(&mut self, buffers: &[Buffer]) -> u32 {
        self.ring.add(buffers);
        let taken = self.memory.next(&mut self.queue).expect("a sound ring").expect("a request");
        taken.serve(&self.server, self.shared.window())
    }

    /// Gives the daemon a channel to a VMM that answers what `answer` says; see [`Vmm::new`].
    pub fn connect(&self, answer: impl FnMut(&Asked) -> Vec<u8> + Send + 'static) -> Vmm {
        self.connect_as(|_| (), answer)
    }

    /// As [`Guest::connect`], with a channel that `agree` changes.
    pub fn connect_as(
        &self,
        agree: impl FnOnce(&vhost::vhost_user::Backend),
        answer: impl FnMut(&Asked) -> Vec<u8> + Send + 'static,
    ) -> Vmm {
        let (vmm, channel) = Vmm::new(answer);
        agree(&channel);
        self.shared.window().expect("a window").connect(channel);
        vmm
    }

    /// Asks for a piece of a file in the window; the error, or 0.
    pub fn map(&mut self, node: u64, from: u64, (at, len): (u64, u64), rights: u64) -> i32 {
        let body = [u64::MAX, from, len, rights, at];
        self.call(48, node, &body.map(u64::to_le_bytes).concat()).errno
    }

    /// Gives pieces of the window back; the error, or 0.
    pub fn unmap(&mut self, node: u64, pieces: &[(u64, u64)]) -> i32 {
        let words = pieces.iter().flat_map(|(at, len)| [*at, *len]).flat_map(u64::to_le_bytes);
        let body = (pieces.len() as u32).to_le_bytes().into_iter().chain(words);
        self.call(49, node, &body.collect::<Vec<u8>>()).errno
    }

    /// A request's head and its body.
    pub fn request(&mut self, operation: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 1;
        let mut bytes = (40 + body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(operation.to_le_bytes());
        bytes.extend(self.unique.to_le_bytes());
        bytes.extend(node.to_le_bytes());
        for word in [self.user, self.user, 1, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(body);
        bytes
    }

    /// Sends a request and takes its reply apart.
    pub fn call(&mut self, operation: u32, node: u64, body: &[u8]) -> Reply {
        let request = self.request(operation, node, body);
        let reply = self.raw(&request, ROOM);
        assert!(reply.len() >= HEAD, "no reply to operation {operation}");
        let word = |at: usize| i32::from_le_bytes(reply[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(word(0) as usize, reply.len(), "a reply is as long as it says");
        Reply { errno: -word(4), body: reply[HEAD..].to_vec() }
    }

    /// Looks a name up: its node, or the error.
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<u64, i32> {
        let reply = self.call(1, parent, &[name.as_bytes(), b"\0"].concat());
        number(&reply)
    }

    /// Opens a node: its handle, or the error.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<u64, i32> {
        let reply = self.call(14, node, &[flags.to_le_bytes(), [0; 4]].concat());
        number(&reply)
    }
}

/// The number that a reply begins with.
pub fn number(reply: &Reply) -> Result<u64, i32> {
    match reply.errno {
        0 => Ok(u64::from_le_bytes(reply.body[..8].try_into().expect("eight bytes"))),
        errno => Err(errno),
    }
}

/// A daemon of `dir` in this process, without a sandbox, at the other end of a socket; it ends with the connection.
pub fn daemon(dir: &Path, words: &[&str]) -> std::os::unix::net::UnixStream {
    daemon_and_end(dir, words).0
}

/// The daemon's end, and why it did.
pub type End = std::thread::JoinHandle<std::io::Result<()>>;

/// As [`daemon`], with its end.
pub fn daemon_and_end(dir: &Path, words: &[&str]) -> (std::os::unix::net::UnixStream, End) {
    use std::os::unix::net::{UnixListener, UnixStream};
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join("fs.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let options = options(dir, words);
    let service = super::serve::Service::new(shared(&options), &options).expect("threads");
    let stream = UnixStream::connect(&path).expect("a connection");
    (stream, std::thread::spawn(move || service.serve(listener)))
}
