//! Bytes that can be told apart, and a short word for many of them.

use std::fmt;

/// Bytes that look random and are the same for the same seed (xorshift64).
#[derive(Debug)]
pub struct Pattern(u64);

impl Pattern {
    /// The bytes of `seed`.
    pub fn new(seed: u64) -> Self {
        // Not zero, from which the sequence would not move.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next bytes. Eight at a time: whoever fills in pieces fills in multiples of eight, but for the last.
    pub fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.iter_mut().zip(self.0.to_le_bytes()).for_each(|(to, from)| *to = from);
        }
    }
}

/// A digest of bytes in their order, however they come in pieces. Not against an adversary, but any lost, repeated,
/// changed or moved word shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    sum: u64,
    /// Bytes that do not make a word yet.
    rest: Vec<u8>,
    len: u64,
}

impl Digest {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let missing = (8 - self.rest.len()) % 8;
        let (first, bytes) = bytes.split_at(missing.min(bytes.len()));
        self.rest.extend(first);
        if self.rest.len() == 8 {
            self.word(u64::from_le_bytes(self.rest[..].try_into().expect("eight bytes")));
            self.rest.clear();
        }
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        self.rest.extend(rest);
    }

    fn word(&mut self, word: u64) {
        self.sum = (self.sum.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut end = self.clone();
        self.rest.iter().for_each(|byte| end.word(u64::from(*byte)));
        write!(f, "{} {:016x}", self.len, end.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_does_not_depend_on_the_pieces() {
        let mut bytes = vec![0; 1003];
        Pattern::new(1).fill(&mut bytes);
        let of = |piece: usize| {
            let mut digest = Digest::default();
            bytes.chunks(piece).for_each(|part| digest.add(part));
            digest.to_string()
        };
        for piece in [1, 3, 7, 8, 64, 1000] {
            assert_eq!(of(piece), of(1003), "in pieces of {piece}");
        }
    }

    #[test]
    fn a_digest_tells_a_changed_moved_or_lost_byte() {
        let of = |bytes: &[u8]| {
            let mut digest = Digest::default();
            digest.add(bytes);
            digest.to_string()
        };
        let all = of(b"0123456789abcdef");
        for other in [&b"0123456789abcdeg"[..], b"89abcdef01234567", b"0123456789abcde", b"0123456789abcdef0"]
        {
            assert_ne!(of(other), all);
        }
    }
}
