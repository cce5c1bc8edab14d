//! The daemon's way to ask something of us (the backend channel), and our answer.
//!
//! What there is to ask for is to map files into a shared memory region of the device (SHMEM_MAP and SHMEM_UNMAP): that is
//! done where the device has one. Everything else, to share objects and to be told that the configuration has changed, no
//! device here has. A daemon that asks all the same, or for regions that do not exist, gets the answer that the protocol has
//! for a failure, and the guest notices nothing.
//!
//! Not the `vhost` crate's handler: that one waits for the rest of a message that begins, however long it takes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::confine::Call;
use crate::shared_memory::Region;

/// What a thread asks of the kernel that answers.
pub const CALLS: [Call; 4] = [
    Call::Any(libc::SYS_recvfrom),
    Call::Any(libc::SYS_recvmsg),
    Call::Any(libc::SYS_sendto),
    Call::Any(libc::SYS_shutdown),
];

/// Request, flags, size of the body: 32 bits each, in this machine's order.
const HEADER: usize = 12;
/// Longest body there is (vhost-user, "Communication").
const BODY_MAX: u32 = 4096;

const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const WANTS_REPLY: u32 = 1 << 3;
/// Anything but 0 is a failure.
const FAILED: u64 = 1;

/// VHOST_USER_BACKEND_SHMEM_MAP and VHOST_USER_BACKEND_SHMEM_UNMAP.
const MAP: u32 = 9;
const UNMAP: u32 = 10;
/// Of a mapping: the guest may write there.
const WRITABLE: u64 = 1;

/// Our end of the channel. A clone is of the same.
#[derive(Clone, Debug)]
pub struct Requests {
    socket: Arc<UnixStream>,
    begun: Arc<Mutex<Begun>>,
}

/// A message that has not come whole yet, and what came with it.
#[derive(Debug, Default)]
struct Begun {
    bytes: Vec<u8>,
    file: Option<File>,
}

impl AsRawFd for Requests {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Requests {
    /// Both ends; the second is the daemon's.
    ///
    /// # Errors
    /// The host has no sockets to give.
    pub fn new() -> io::Result<(Self, UnixStream)> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Self { socket: Arc::new(socket), begun: Arc::default() }, theirs))
    }

    /// Ends the channel, for every clone: a daemon that waits for an answer gets none.
    pub fn shut(&self) {
        // It may be shut already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Answers the next message, if it has come whole; `region` is what files may be mapped into. One message and no more:
    /// a daemon that sends without end shall not have the thread to itself.
    ///
    /// # Errors
    /// The daemon has closed its end, does not read our answers, or does not speak the protocol. It is not to be asked
    /// again: see [`Requests::shut`].
    pub fn answer(&self, region: Option<&Region>) -> io::Result<()> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if !begun.read(&self.socket, region.is_some())? {
            return Ok(());
        }
        let Begun { bytes, file } = std::mem::take(&mut *begun);
        let (header, body) = bytes.split_at_checked(HEADER).unwrap_or_default();
        let Some([request, flags, _]) = words(header) else { return Ok(()) };
        let done = carry_out(request, body, file.as_ref(), region);
        if let Err(why) = &done {
            tracing::debug!("a daemon's request {request} is refused: {why}");
        }
        if flags & WANTS_REPLY != 0 {
            let status = if done.is_ok() { 0 } else { FAILED };
            (&*self.socket).write_all(&reply(request, status))?;
        }
        Ok(())
    }
}

impl Begun {
    /// Reads on; whether the message is whole. Never past its end: a descriptor comes with its message's first byte, and
    /// would be taken for another one's. Where there is no use for one it does not even become ours: to close what a daemon
    /// has sent may take as long as it likes.
    fn read(&mut self, socket: &UnixStream, with_files: bool) -> io::Result<bool> {
        loop {
            let wanted = match words(self.bytes.get(..HEADER).unwrap_or_default()) {
                None => HEADER,
                Some([_, _, size]) if size > BODY_MAX => {
                    return Err(io::Error::other("a request is longer than any can be"));
                }
                Some([_, _, size]) => HEADER + size as usize,
            };
            let have = self.bytes.len();
            if have >= HEADER && have == wanted {
                return Ok(true);
            }
            self.bytes.resize(wanted, 0);
            let place = self.bytes.get_mut(have..).unwrap_or_default();
            let got = match with_files {
                true => socket.recv_with_fd(place).map_err(io::Error::from),
                false => { socket }.read(place).map(|n| (n, None)),
            };
            self.bytes.truncate(have + got.as_ref().map_or(0, |(n, _)| *n));
            match got {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, file)) => self.file = file.or(self.file.take()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn words(header: &[u8]) -> Option<[u32; 3]> {
    let (words, []) = header.as_chunks::<4>() else { return None };
    Some(<[[u8; 4]; 3]>::try_from(words).ok()?.map(u32::from_ne_bytes))
}

/// A region's number and then, in 64 bits each, where in the file, where in the region, how much, and how (vhost-user,
/// "MMAP request").
fn carry_out(request: u32, body: &[u8], file: Option<&File>, region: Option<&Region>) -> io::Result<()> {
    let (MAP | UNMAP, Some(region)) = (request, region) else {
        return Err(io::Error::other("no device here has that"));
    };
    let (words, []) = body.as_chunks::<8>() else { return Err(io::Error::other("it has another length")) };
    let Ok([number, from, at, len, flags]) = <[[u8; 8]; 5]>::try_from(words) else {
        return Err(io::Error::other("it has another length"));
    };
    // One byte is the number, what follows is not defined.
    if number[0] != 0 {
        return Err(io::Error::other("there is one region, whose number is 0"));
    }
    let [from, at, len, flags] = [from, at, len, flags].map(u64::from_ne_bytes);
    if request == UNMAP {
        return region.unmap(at, len);
    }
    let file = file.ok_or_else(|| io::Error::other("a mapping comes with a file"))?;
    if flags & !WRITABLE != 0 {
        return Err(io::Error::other("a mapping is writable or not, and nothing else"));
    }
    region.map(at, len, (file, from), flags & WRITABLE != 0)
}

fn reply(request: u32, status: u64) -> [u8; HEADER + 8] {
    let mut reply = [0; HEADER + 8];
    let words = [request, VERSION | IS_REPLY, 8];
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).chain(status.to_ne_bytes());
    reply.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use crate::shared_memory::GRAIN;

    fn message(request: u32, flags: u32, size: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = [request, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(HEADER + size.min(4096) as usize, 0x55);
        bytes
    }

    /// A request about the region: its number, where in the file, where in the region, how much, how.
    fn about(request: u32, numbers: [u64; 5]) -> Vec<u8> {
        let mut bytes = message(request, VERSION | WANTS_REPLY, 40);
        bytes.truncate(HEADER);
        bytes.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    fn status(theirs: &mut UnixStream) -> u64 {
        let mut reply = [0; HEADER + 8];
        theirs.read_exact(&mut reply).expect("an answer");
        assert_eq!(words(&reply[..HEADER]).expect("a header")[1..], [VERSION | IS_REPLY, 8]);
        u64::from_ne_bytes(reply[HEADER..].try_into().expect("eight bytes"))
    }

    #[test]
    fn without_a_region_the_daemon_is_told_no_whatever_it_asks_for() {
        let (ours, mut theirs) = Requests::new().expect("a channel");
        let request = message(MAP, VERSION | WANTS_REPLY, 40);
        for part in request.chunks(7) {
            theirs.write_all(part).expect("sent");
            ours.answer(None).expect("answered");
        }
        assert_ne!(status(&mut theirs), 0, "a failure");
    }

    #[test]
    fn files_are_mapped_into_the_region_and_requests_that_are_none_are_told_no() {
        let region = Region::new(2 * GRAIN).expect("a region");
        let file = File::from(memfd_create(c"file", MFdFlags::empty()).expect("a file"));
        file.set_len(GRAIN).expect("a length");
        let (ours, mut theirs) = Requests::new().expect("a channel");
        let mut ask = |bytes: &[u8], with_file: bool| {
            if with_file {
                theirs.send_with_fd(bytes, file.as_raw_fd()).expect("sent");
            } else {
                theirs.write_all(bytes).expect("sent");
            }
            ours.answer(Some(&region)).expect("answered");
            status(&mut theirs) == 0
        };
        assert!(ask(&about(MAP, [0, 0, 0, GRAIN, WRITABLE]), true));
        assert!(ask(&about(UNMAP, [0, 0, 0, 2 * GRAIN, 0]), false));
        for wrong in [[1, 0, 0, GRAIN, 0], [0, 0, 2 * GRAIN, GRAIN, 0], [0, 0, 0, GRAIN, 2]] {
            assert!(!ask(&about(MAP, wrong), true), "{wrong:?}");
        }
        assert!(!ask(&about(MAP, [0, 0, 0, GRAIN, 0]), false), "no file");
        assert!(!ask(&about(UNMAP, [0, 0, GRAIN, 2 * GRAIN, 0]), false), "past the end");
        assert!(!ask(&message(MAP, VERSION | WANTS_REPLY, 48), true), "another length");
        assert!(!ask(&message(8, VERSION | WANTS_REPLY, 16), true), "another request");
    }

    #[test]
    fn a_file_belongs_to_the_message_that_it_came_with() {
        let region = Region::new(2 * GRAIN).expect("a region");
        let file = File::from(memfd_create(c"file", MFdFlags::empty()).expect("a file"));
        let (ours, mut theirs) = Requests::new().expect("a channel");
        theirs.write_all(&about(MAP, [0, 0, 0, GRAIN, 0])).expect("sent");
        theirs.send_with_fd(&about(MAP, [0, 0, GRAIN, GRAIN, 0])[..], file.as_raw_fd()).expect("sent");
        theirs.write_all(&about(MAP, [0, 0, 0, GRAIN, 0])).expect("sent");
        let done: Vec<_> = (0..3)
            .map(|_| {
                ours.answer(Some(&region)).expect("answered");
                status(&mut theirs) == 0
            })
            .collect();
        assert_eq!(done, [false, true, false]);
    }

    #[test]
    fn a_daemon_that_sends_without_end_gets_one_answer_at_a_time() {
        let (ours, mut theirs) = Requests::new().expect("a channel");
        theirs.write_all(&message(2, VERSION | WANTS_REPLY, 0).repeat(100)).expect("sent");
        ours.answer(None).expect("answered");
        status(&mut theirs);
        theirs.set_nonblocking(true).expect("set");
        assert!(theirs.read(&mut [0; 1]).is_err(), "one, and others have their turn");
    }

    #[test]
    fn half_a_request_is_not_waited_for_and_no_answer_is_forced_on_anybody() {
        let (ours, mut theirs) = Requests::new().expect("a channel");
        ours.answer(None).expect("nothing there");
        theirs.write_all(&message(2, VERSION, 0)).expect("sent");
        theirs.write_all(&[1, 2, 3]).expect("sent");
        ours.answer(None).expect("nothing to say");
        theirs.set_nonblocking(true).expect("set");
        assert!(theirs.read(&mut [0; 1]).is_err());
    }

    #[test]
    fn garbage_and_a_hang_up_end_the_channel() {
        let (ours, mut theirs) = Requests::new().expect("a channel");
        theirs.write_all(&message(2, VERSION, 4097)).expect("sent");
        assert!(ours.answer(None).is_err());
        let (ours, theirs) = Requests::new().expect("a channel");
        drop(theirs);
        assert!(ours.answer(None).is_err());
        let (ours, mut theirs) = Requests::new().expect("a channel");
        ours.clone().shut();
        assert!(ours.answer(None).is_err() && theirs.write_all(&[0]).is_err());
    }
}
