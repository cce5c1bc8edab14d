//! The end of a guest's output, kept and made fit to print.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel's panic with its traces is some 8 KiB; the reason for it stands before them.
const KEPT: usize = 16 << 10;
/// Longer lines are cut.
const LINE: usize = 200;

/// The last few KiB of what a guest wrote to a console. Clones are the same tail.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// Bytes ever pushed.
    written: u64,
}

impl Tail {
    /// Adds what the guest wrote. Whether these are the first bytes ever is the answer.
    pub fn push(&self, bytes: &[u8]) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.written == 0 && !bytes.is_empty();
        kept.written += bytes.len() as u64;
        let newest = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or_default();
        // At most all that is kept, for `newest` alone is never too much.
        let surplus = (kept.bytes.len() + newest.len()).saturating_sub(KEPT);
        kept.bytes.drain(..surplus);
        kept.bytes.extend(newest);
        first
    }

    /// A copy of what is kept.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes.iter().copied().collect()
    }

    /// How many bytes the guest ever wrote.
    pub fn written(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).written
    }
}

/// The lines in `raw` that say something: no escape sequences, no control characters, nothing empty.
pub(super) fn lines(raw: &[u8]) -> Vec<String> {
    let text = without_escapes(&String::from_utf8_lossy(raw));
    let clean = |line: &str| -> String {
        line.chars().filter(|c| !c.is_control()).take(LINE).collect::<String>().trim_end().to_owned()
    };
    text.split(['\n', '\r']).map(clean).filter(|line| !line.is_empty()).collect()
}

/// Takes out what begins with ESC: `ESC [ … letter`, or ESC and one character.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next() == Some('[') {
            // Consumes the parameters and the letter that ends them.
            chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_newest_bytes() {
        let tail = Tail::default();
        assert!(!tail.push(b""));
        assert!(tail.push(b"first "));
        assert!(!tail.push(&vec![b'x'; KEPT - 3]));
        assert_eq!(tail.bytes().len(), KEPT);
        assert!(tail.bytes().starts_with(b"st x"));
        tail.push(&[vec![b'a'; KEPT], b"end".to_vec()].concat());
        assert_eq!(tail.bytes().len(), KEPT);
        assert!(tail.bytes().ends_with(b"aend"));
    }

    #[test]
    fn lines_are_fit_for_a_terminal() {
        let raw = b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\r\nbell\x07 and \x9b31m\x00\r\nbad \xff utf\n\x1b[";
        assert_eq!(lines(raw), ["red", "bell and \u{fffd}31m", "bad \u{fffd} utf"]);
        assert_eq!(lines(&vec![b'y'; 5000]).first().map(String::len), Some(LINE));
    }
}
