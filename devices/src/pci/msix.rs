//! MSI-X (PCI 3.0, 6.8.2): a table of messages, each behind a vector that the hypervisor raises by itself.

use std::cell::OnceCell;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::sys;
use crate::interrupt::{Interrupt, MsiSource, MsiVector};

/// The capability's id.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY: u64 = 16;
/// The vector number of "none" (VIRTIO 1.3, 4.1.4.3).
pub const NO_VECTOR: u16 = 0xffff;

/// Message control (6.8.2.3).
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control (6.8.2.9).
const MASKED: u32 = 1;

struct Entry {
    /// Address low, address high, data, vector control.
    words: [u32; 4],
    vector: Box<dyn MsiVector>,
    /// What another process signals, if one was ever to.
    lent: OnceCell<EventFd>,
    /// The message that the vector raises now.
    live: Option<(u64, u32)>,
}

/// A function's vectors.
pub struct Msix {
    entries: Vec<Entry>,
    control: u16,
}

impl Msix {
    /// `count` vectors, 1 to 2048, from `source`.
    ///
    /// # Errors
    /// The host has no more of them.
    pub fn new(count: u16, source: &dyn MsiSource) -> io::Result<Self> {
        let entry = |_| {
            let (words, vector) = ([0, 0, 0, MASKED], source.vector()?);
            Ok(Entry { words, vector, lent: OnceCell::new(), live: None })
        };
        Ok(Self { entries: (0..count).map(entry).collect::<io::Result<_>>()?, control: 0 })
    }

    /// The capability's body for a table at `table` and pending bits at `pending`, both in BAR 0, and its write mask.
    #[allow(clippy::cast_possible_truncation)] // at most 2048 entries
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        let size = self.entries.len().saturating_sub(1) as u16;
        body[..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        (body, (ENABLE | FUNCTION_MASK).to_le_bytes())
    }

    /// Whether `vector` is one of the table's.
    pub fn has(&self, vector: u16) -> bool {
        usize::from(vector) < self.entries.len()
    }

    /// The interrupt behind `vector`; one that nobody hears for [`NO_VECTOR`].
    pub fn interrupt(&self, vector: u16) -> Interrupt {
        self.made(vector, Entry::interrupt)
    }

    /// The same, for another process to raise as well.
    pub fn lent_interrupt(&self, vector: u16) -> Interrupt {
        self.made(vector, Entry::lent_interrupt)
    }

    fn made(&self, vector: u16, make: fn(&Entry) -> io::Result<Interrupt>) -> Interrupt {
        match self.entries.get(usize::from(vector)).map(make) {
            Some(Ok(interrupt)) => interrupt,
            Some(Err(why)) => {
                crate::warn_of_guest!("an interrupt is lost, for the host gives no eventfd: {why}");
                Interrupt::none()
            }
            None => Interrupt::none(),
        }
    }

    /// The guest wrote message control.
    pub fn set_control(&mut self, control: u16) {
        self.control = control;
        let open = self.is_open();
        self.entries.iter_mut().for_each(|e| e.apply(open));
    }

    fn is_open(&self) -> bool {
        self.control & (ENABLE | FUNCTION_MASK) == ENABLE
    }

    /// Reads the table; aligned words only (6.8.2), zeros otherwise.
    pub fn read_table(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        if !offset.is_multiple_of(4) {
            return;
        }
        for (word, at) in out.chunks_mut(4).zip((offset..).step_by(4)) {
            let value = self.word(at).to_le_bytes();
            word.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
    }

    fn word(&self, offset: u64) -> u32 {
        let (entry, word) = split(offset);
        self.entries.get(entry).and_then(|e| e.words.get(word)).copied().unwrap_or(0)
    }

    /// Writes the table, in words of four bytes or pairs of them.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        let open = self.is_open();
        if !offset.is_multiple_of(4) {
            return;
        }
        for (raw, at) in data.chunks_exact(4).zip((offset..).step_by(4)) {
            let (entry, word) = split(at);
            let Some(entry) = self.entries.get_mut(entry) else { return };
            let mut value = [0; 4];
            value.copy_from_slice(raw);
            if let Some(word) = entry.words.get_mut(word) {
                *word = u32::from_le_bytes(value);
            }
            entry.apply(open);
        }
    }

    /// Reads pending bits: vectors that were raised while they were masked.
    pub fn read_pending(&self, offset: u64, out: &mut [u8]) {
        out.fill(0);
        for (byte, at) in out.iter_mut().zip(offset..) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            for (bit, entry) in (0..8).zip(self.entries.iter().skip(first)) {
                *byte |= u8::from(entry.is_pending()) << bit;
            }
        }
    }
}

fn split(offset: u64) -> (usize, usize) {
    let entry = usize::try_from(offset / ENTRY).unwrap_or(usize::MAX);
    #[allow(clippy::cast_possible_truncation)] // 0 to 3
    (entry, (offset % ENTRY / 4) as usize)
}

impl Entry {
    /// Has the vector follow the entry. A host that refuses leaves it silent, as broken hardware would be.
    fn apply(&mut self, open: bool) {
        let [low, high, data, control] = self.words;
        let message = (u64::from(high) << 32 | u64::from(low), data);
        let wanted = (open && control & MASKED == 0).then_some(message);
        if wanted == self.live {
            return;
        }
        let done = match wanted {
            Some((address, data)) => self.vector.unmask(address, data),
            None => self.vector.mask(),
        };
        self.live = if done.is_ok() { wanted } else { None };
        if let Err(why) = done {
            crate::warn_of_guest!("an MSI-X vector cannot be programmed: {why}");
        }
    }

    fn is_pending(&self) -> bool {
        if self.live.is_some() {
            return false;
        }
        // The signal is kept in the eventfd. Reading it could wait for ever: a daemon that has one may have made it
        // blocking.
        sys::is_signalled(self.vector.eventfd()) || self.lent.get().is_some_and(sys::is_signalled)
    }

    fn interrupt(&self) -> io::Result<Interrupt> {
        Ok(Interrupt::from_eventfd(self.vector.eventfd().try_clone()?))
    }

    fn lent_interrupt(&self) -> io::Result<Interrupt> {
        let lent = self.vector.lend()?;
        let interrupt = self.interrupt()?.with_lent(lent.try_clone()?);
        self.lent.get_or_init(|| lent);
        Ok(interrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Messages, make_blocking};

    fn msix(count: u16) -> (Msix, Messages) {
        let log = Messages::default();
        (Msix::new(count, &log).expect("vectors"), log)
    }

    fn program(msix: &mut Msix, entry: u64, address: u64, data: u32, control: u32) {
        msix.write_table(entry * ENTRY, &address.to_le_bytes());
        msix.write_table(entry * ENTRY + 8, &data.to_le_bytes());
        msix.write_table(entry * ENTRY + 12, &control.to_le_bytes());
    }

    #[test]
    fn a_vector_follows_its_entry_only_while_nothing_masks_it() {
        let (mut msix, log) = msix(2);
        program(&mut msix, 1, 0xfee0_0000, 0x41, 0);
        assert!(log.take().is_empty(), "MSI-X is off");
        msix.set_control(ENABLE | FUNCTION_MASK);
        assert!(log.take().is_empty(), "the function is masked");
        msix.set_control(ENABLE);
        assert_eq!(log.take(), [Some((0xfee0_0000, 0x41))]);
        program(&mut msix, 1, 0xfee0_0000, 0x41, 1);
        assert_eq!(log.take(), [None]);
    }

    #[test]
    fn a_masked_signal_is_pending_until_it_is_let_through() {
        let (msix, _) = msix(12);
        msix.interrupt(9).raise();
        let mut bits = [0; 2];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [0, 2]);
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [0, 2], "looking takes nothing away");
    }

    #[test]
    fn what_another_process_signals_is_pending_like_what_we_raise() {
        let (msix, messages) = msix(2);
        let interrupt = msix.lent_interrupt(1);
        let lent = interrupt.lent().expect("it was lent");
        lent.write(1).expect("it has room");
        let mut bits = [0];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [2]);
        assert!(messages.event(1).read().is_err(), "it is another one than ours");
        assert!(msix.interrupt(1).lent().is_none());
    }

    #[test]
    fn who_fills_what_it_was_lent_and_makes_it_blocking_holds_up_nobody_who_raises_a_masked_vector() {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (msix, messages) = msix(1);
            let interrupt = msix.lent_interrupt(0);
            let lent = interrupt.lent().expect("it was lent");
            lent.write(u64::MAX - 1).expect("it is empty");
            make_blocking(lent);
            interrupt.raise();
            msix.lent_interrupt(0).raise();
            let _ = done.send(messages.event(0).read().ok());
        });
        assert_eq!(ended.recv_timeout(std::time::Duration::from_secs(60)), Ok(Some(2)));
    }

    #[test]
    fn a_vector_that_another_process_made_blocking_can_be_looked_at() {
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (msix, messages) = msix(1);
            make_blocking(&messages.event(0));
            make_blocking(msix.lent_interrupt(0).lent().expect("it was lent"));
            let mut bits = [0xff];
            msix.read_pending(0, &mut bits);
            let _ = done.send(bits);
        });
        assert_eq!(ended.recv_timeout(std::time::Duration::from_secs(60)), Ok([0]));
    }

    #[test]
    fn accesses_of_any_width_and_place_are_harmless() {
        let (mut msix, _) = msix(3);
        for offset in (0..80).chain([u64::MAX - 8, u64::MAX]) {
            for len in [1, 2, 4, 8] {
                msix.write_table(offset.min(1 << 40), &vec![0xff; len]);
                msix.read_table(offset.min(1 << 40), &mut vec![0; len]);
                msix.read_pending(offset.min(1 << 40), &mut vec![0; len]);
            }
        }
        assert!(msix.interrupt(NO_VECTOR).eventfd().is_none());
    }
}
