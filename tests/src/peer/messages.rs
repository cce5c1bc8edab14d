//! Messages that keep their bounds (SOCK_SEQPACKET): a read gives one of them, and a write makes one.

use std::fs::File;
use std::io::{Read, Write};

use super::{Pattern, half_close};

/// Lengths of messages: the shortest, around a packet's (64 KiB), around a buffer's of the guest (4 KiB), the largest.
const LENGTHS: [usize; 12] = [1, LARGEST, 7, 4095, 4096, 4097, 65_535, 65_536, 65_537, 64, LARGEST - 1, 1000];
const LARGEST: usize = 1 << 20;
/// What a socket holds of what comes: a round of messages, for they are all sent before one is read. The kernels refuse
/// a message that is larger than that.
pub(super) const HELD: usize = 4 << 20;

/// Gives back each message that comes. A peer that vanishes ends it.
pub fn mirror(mut connection: File) {
    // One that is longer would come back cut off, which its sender sees.
    let mut bytes = vec![0; LARGEST];
    while let Ok(n @ 1..) = connection.read(&mut bytes) {
        match connection.write(&bytes[..n]) {
            Ok(written) => assert_eq!(written, n, "a message goes as a whole"),
            Err(_) => return,
        }
    }
}

/// Has messages of many lengths mirrored, `n` times: all of a round are under way at once, and each comes back as it
/// was. One that is too large is refused.
pub fn converse(mut connection: File, n: usize) {
    let mut came = vec![0; LARGEST + 1];
    for round in 0..n {
        let mut pattern = Pattern::new(round as u64);
        let sent = LENGTHS.map(|len| {
            let mut message = vec![0; len];
            pattern.fill(&mut message);
            assert_eq!(connection.write(&message).expect("the peer reads"), len, "it goes as a whole");
            message
        });
        for message in sent {
            let len = connection.read(&mut came).expect("the peer answers");
            assert_eq!(len, message.len(), "a message of another length came back");
            assert!(came[..len] == message, "a message of {len} bytes came back changed");
        }
    }
    let refused = connection.write(&vec![0; HELD + 1]).expect_err("more than the peer holds");
    // Kernels before 6.4 have one error for all that is refused.
    assert!(matches!(refused.raw_os_error(), Some(libc::EMSGSIZE | libc::ENOMEM)), "{refused}");
    half_close(&connection);
    assert_eq!(connection.read(&mut came).expect("an end"), 0, "nothing was sent any more");
}
