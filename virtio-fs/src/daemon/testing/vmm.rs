//! The VMM's end of the channel on which the daemon asks for mappings.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::Backend;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Request, flags, length of the body.
const HEAD: usize = 12;
const BODY: usize = 40;

/// What the daemon asked for.
#[derive(Debug)]
pub struct Asked {
    /// SHMEM_MAP (9) or SHMEM_UNMAP (10).
    pub request: u32,
    /// The region, and what lies beside its number.
    pub region: u64,
    /// Offset in the file.
    pub from: u64,
    /// Offset in the window.
    pub at: u64,
    pub len: u64,
    pub flags: u64,
    /// What came with it.
    pub file: Option<File>,
}

/// What was asked for, in order.
#[derive(Clone, Debug, Default)]
pub struct Vmm(Arc<Mutex<Vec<Asked>>>);

impl Vmm {
    /// A VMM that has agreed to all that there is, in a thread that ends with the channel, and the channel's other end.
    /// What is asked for is answered with bytes of `answer`; fewer than an answer has are the last, and close the channel.
    pub fn new(mut answer: impl FnMut(&Asked) -> Vec<u8> + Send + 'static) -> (Self, Backend) {
        let (ours, theirs) = UnixStream::pair().expect("a channel");
        let vmm = Self::default();
        let seen = vmm.clone();
        std::thread::spawn(move || {
            while let Some(asked) = Self::next(&ours) {
                let answer = answer(&asked);
                seen.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
                if (&ours).write_all(&answer).is_err() || answer.len() < HEAD + size_of::<u64>() {
                    return;
                }
            }
        });
        let channel = Backend::from_stream(theirs);
        channel.set_reply_ack_flag(true);
        channel.set_shmem_flag(true);
        (vmm, channel)
    }

    /// The next thing that is asked for, if it is not over.
    pub fn next(channel: &UnixStream) -> Option<Asked> {
        let mut bytes = [0; HEAD + BODY];
        let (first, file) = channel.recv_with_fd(&mut bytes).ok().filter(|(len, _)| *len > 0)?;
        { channel }.read_exact(&mut bytes[first..]).ok()?;
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!((word(4), word(8)), (1 | 8, BODY as u32), "version 1, and an answer is wanted");
        let [region, from, at, len, flags] = [0, 8, 16, 24, 32].map(|at| long(HEAD + at));
        Some(Asked { request: word(0), region, from, at, len, flags, file })
    }

    /// What was asked for since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Asked {
    /// An answer to it: 0 for done.
    pub fn answer(&self, result: u64) -> Vec<u8> {
        let head = [self.request, 1 | 4, 8].map(u32::to_ne_bytes).concat();
        [head, result.to_ne_bytes().to_vec()].concat()
    }

    /// Region, place in the window, length, offset in the file, flags.
    pub fn numbers(&self) -> [u64; 5] {
        [self.region, self.at, self.len, self.from, self.flags]
    }
}
