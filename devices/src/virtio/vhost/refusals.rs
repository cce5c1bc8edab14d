//! The daemon's way to ask something of us (the backend channel), and our answer: no.
//!
//! What there is to ask for is to map the daemon's files into the guest, to share objects, and to be told that the
//! configuration has changed; no device here has any of it. A daemon that asks all the same, for regions that do not
//! exist for one, gets the answer that the protocol has for a failure, and the guest notices nothing.
//!
//! Not the `vhost` crate's handler: that one waits for the rest of a message that begins, however long it takes.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Request, flags, size of the body: 32 bits each, in this machine's order.
const HEADER: usize = 12;
/// Longest body there is (vhost-user, "Communication").
const BODY_MAX: u32 = 4096;

const VERSION: u32 = 1;
const IS_REPLY: u32 = 1 << 2;
const WANTS_REPLY: u32 = 1 << 3;
/// Anything but 0 is a failure.
const FAILED: u64 = 1;

/// Our end of the channel.
#[derive(Debug)]
pub(super) struct Refusals {
    socket: UnixStream,
    /// A message that has not come whole yet.
    begun: Vec<u8>,
}

impl AsRawFd for Refusals {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Refusals {
    /// Both ends; the second is the daemon's.
    pub(super) fn new() -> io::Result<(Self, UnixStream)> {
        let (socket, theirs) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Self { socket, begun: Vec::new() }, theirs))
    }

    /// Answers what has come; descriptors that came with it are gone already, for nobody took them out.
    ///
    /// # Errors
    /// The daemon has closed its end, does not read our answers, or does not speak the protocol.
    pub(super) fn answer(&mut self) -> io::Result<()> {
        let mut bytes = [0; 1024];
        match self.socket.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => self.begun.extend(bytes.iter().take(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
        while let Some((message, rest)) = split(&self.begun)? {
            let reply = reply(message);
            self.begun = rest.to_vec();
            if let Some(reply) = reply {
                self.socket.write_all(&reply)?;
            }
        }
        Ok(())
    }
}

type Header = [u32; 3];

/// The first message, if it is whole, and what follows it.
fn split(bytes: &[u8]) -> io::Result<Option<(Header, &[u8])>> {
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else { return Ok(None) };
    let mut words = header.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
    let header = [(); 3].map(|()| words.next().unwrap_or(0));
    if header[2] > BODY_MAX {
        return Err(io::Error::other("a request is longer than any can be"));
    }
    Ok(rest.get(header[2] as usize..).map(|rest| (header, rest)))
}

/// The answer, if the daemon waits for one.
fn reply([request, flags, _]: Header) -> Option<[u8; HEADER + 8]> {
    let mut reply = [0; HEADER + 8];
    let words = [request, VERSION | IS_REPLY, 8];
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes()).chain(FAILED.to_ne_bytes());
    reply.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    (flags & WANTS_REPLY != 0).then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: u32, flags: u32, size: u32) -> Vec<u8> {
        let mut bytes: Vec<u8> = [request, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(HEADER + size.min(4096) as usize, 0x55);
        bytes
    }

    #[test]
    fn whatever_the_daemon_asks_for_it_is_told_no() {
        let (mut ours, mut theirs) = Refusals::new().expect("a channel");
        let request = message(9, VERSION | WANTS_REPLY, 40);
        for part in request.chunks(7) {
            theirs.write_all(part).expect("sent");
            ours.answer().expect("answered");
        }
        let mut reply = [0; HEADER + 8];
        theirs.read_exact(&mut reply).expect("an answer");
        assert_eq!(split(&reply).expect("a message").expect("whole").0, [9, VERSION | IS_REPLY, 8]);
        assert_ne!(reply[HEADER..], [0; 8], "a failure");
    }

    #[test]
    fn half_a_request_is_not_waited_for_and_no_answer_is_forced_on_anybody() {
        let (mut ours, mut theirs) = Refusals::new().expect("a channel");
        ours.answer().expect("nothing there");
        theirs.write_all(&message(2, VERSION, 0)).expect("sent");
        theirs.write_all(&[1, 2, 3]).expect("sent");
        ours.answer().expect("nothing to say");
        theirs.set_nonblocking(true).expect("set");
        assert!(theirs.read(&mut [0; 1]).is_err());
    }

    #[test]
    fn garbage_and_a_hang_up_end_the_channel() {
        let (mut ours, mut theirs) = Refusals::new().expect("a channel");
        theirs.write_all(&message(2, VERSION, 4097)).expect("sent");
        assert!(ours.answer().is_err());
        let (mut ours, theirs) = Refusals::new().expect("a channel");
        drop(theirs);
        assert!(ours.answer().is_err());
    }
}
