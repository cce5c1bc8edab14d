//! The keys by which a user leaves a raw terminal.

/// Ctrl-A.
const PREFIX: u8 = 0x01;

/// Looks for Ctrl-A x in what a user types.
pub(super) struct Escape {
    call: Box<dyn Fn() + Send>,
    /// The last key was the prefix.
    armed: bool,
}

impl Escape {
    pub(super) fn new(call: Box<dyn Fn() + Send>) -> Self {
        Self { call, armed: false }
    }

    /// What of `typed` is the guest's.
    pub(super) fn filter(&mut self, typed: &[u8]) -> Vec<u8> {
        typed.iter().filter_map(|key| self.key(*key)).collect()
    }

    fn key(&mut self, key: u8) -> Option<u8> {
        if !self.armed {
            self.armed = key == PREFIX;
            return (!self.armed).then_some(key);
        }
        self.armed = false;
        match key {
            b'x' => {
                (self.call)();
                None
            }
            PREFIX => Some(PREFIX),
            // Any other key after the prefix is meant for nobody.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    #[test]
    fn ctrl_a_x_calls_and_ctrl_a_twice_types_one() {
        let calls = Arc::new(AtomicU8::new(0));
        let count = calls.clone();
        let mut escape = Escape::new(Box::new(move || _ = count.fetch_add(1, Ordering::SeqCst)));
        assert_eq!(escape.filter(b"ab\x01"), b"ab");
        assert_eq!(escape.filter(b"\x01c\x01qd"), b"\x01cd");
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        assert_eq!(escape.filter(b"\x01x!"), b"!");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}
