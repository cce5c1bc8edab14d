//! A chain of buffers that the driver has made available: a value that is completed once, by being consumed.
//!
//! Everything about a chain is checked when it is taken from its queue (VIRTIO 1.3, 2.7.4 to 2.7.5): it ends, it is
//! not longer than a queue may be, device-readable buffers come before device-writable ones, and each of them lies
//! in guest RAM (or is left out, of a chain for a device that can answer it with an error: [`Chain::is_astray`]). What is left for a device is to read from the one part and to write to the other.
//!
//! Hazard: the guest may change a buffer's content at any time. Whoever looks at a header copies it out first.

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, ReadVolatile, VolatileMemoryError,
    VolatileSlice, WriteVolatile,
};

use super::queue::QueueError;

/// One buffer: guest-physical address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    at: GuestAddress,
    len: usize,
}

/// The buffers of one direction, from which a device takes bytes from the front.
#[derive(Debug, Default)]
pub struct Buffers {
    spans: Vec<Span>,
    /// Spans before this one are used up.
    next: usize,
    left: usize,
}

impl Buffers {
    fn push(&mut self, at: GuestAddress, len: usize) {
        if len > 0 {
            self.spans.push(Span { at, len });
            self.left += len;
        }
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Passes over `n` bytes, or over all there are.
    pub fn skip(&mut self, n: usize) {
        let mut n = n.min(self.left);
        self.left -= n;
        while let Some(span) = self.spans.get_mut(self.next)
            && n > 0
        {
            let step = n.min(span.len);
            // Checked when the chain was taken: a span does not run past the end of addresses.
            span.at.0 += step as u64;
            span.len -= step;
            n -= step;
            if span.len == 0 {
                self.next += 1;
            }
        }
    }

    /// The first `limit` bytes that are left, as slices of guest memory.
    ///
    /// # Errors
    /// Memory that was there when the chain was taken is gone.
    pub fn slices<'a>(
        &self,
        ram: &'a GuestMemoryMmap,
        limit: usize,
    ) -> Result<Vec<VolatileSlice<'a>>, QueueError> {
        let mut found = Vec::with_capacity(self.spans.len() - self.next.min(self.spans.len()));
        let mut room = limit;
        for span in self.spans.iter().skip(self.next) {
            let len = span.len.min(room);
            if len == 0 {
                break;
            }
            for slice in ram.get_slices(span.at, len) {
                found.push(slice.map_err(|_| QueueError::OutsideMemory)?);
            }
            room -= len;
        }
        Ok(found)
    }

    fn move_with(
        &mut self,
        ram: &GuestMemoryMmap,
        limit: usize,
        mut step: impl FnMut(&mut VolatileSlice<'_>) -> Result<usize, VolatileMemoryError>,
    ) -> Result<usize, MoveError> {
        let mut moved = 0;
        for mut slice in self.slices(ram, limit)? {
            match step(&mut slice) {
                Ok(n) => {
                    moved += n;
                    if n < slice.len() {
                        break;
                    }
                }
                // What has been moved already is no error; the next call meets it again.
                Err(_) if moved > 0 => break,
                Err(VolatileMemoryError::IOError(e)) => return Err(MoveError::Host(e)),
                Err(e) => return Err(MoveError::Host(std::io::Error::other(e))),
            }
        }
        self.skip(moved);
        Ok(moved)
    }
}

/// Why bytes did not move between a chain and a file.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The chain is at fault.
    #[error(transparent)]
    Chain(#[from] QueueError),
    /// The file is.
    #[error(transparent)]
    Host(std::io::Error),
}

/// A chain of buffers, taken from a queue and to be given back to it.
#[derive(Debug)]
#[must_use = "a chain that is not completed is lost to the driver"]
pub struct Chain {
    head: u16,
    readable: Buffers,
    writable: Buffers,
    written: usize,
    is_astray: bool,
}

impl Chain {
    pub(super) fn new(head: u16) -> Self {
        let (readable, writable) = (Buffers::default(), Buffers::default());
        Self { head, readable, writable, written: 0, is_astray: false }
    }

    /// Makes room for as many buffers of either kind.
    pub(super) fn expect(&mut self, buffers: usize) {
        self.readable.spans.reserve(buffers);
        self.writable.spans.reserve(buffers);
    }

    /// Adds a descriptor's buffer, in the order of the chain; one outside of memory only leaves its mark.
    pub(super) fn push(
        &mut self,
        ram: &GuestMemoryMmap,
        (at, len): (GuestAddress, u32),
        writable: bool,
    ) -> Result<(), QueueError> {
        let len = len as usize;
        if len > 0 && !ram.check_range(at, len) {
            self.is_astray = true;
            return Ok(());
        }
        match writable {
            true => self.writable.push(at, len),
            false if !self.writable.spans.is_empty() => return Err(QueueError::Order),
            false => self.readable.push(at, len),
        }
        Ok(())
    }

    /// Whether a buffer of it lies outside of guest memory, and was left out.
    pub fn is_astray(&self) -> bool {
        self.is_astray
    }

    /// Index of the chain's first descriptor, by which the driver knows it.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> usize {
        self.written
    }

    /// Bytes of the driver's that are left to be read.
    pub fn readable(&self) -> usize {
        self.readable.len()
    }

    /// Room that is left for the device's bytes.
    pub fn writable(&self) -> usize {
        self.writable.len()
    }

    /// Copies the driver's next bytes out; as many as `buf` has, or fewer at the end.
    ///
    /// # Errors
    /// See [`Buffers::slices`].
    pub fn read(&mut self, ram: &GuestMemoryMmap, buf: &mut [u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for slice in self.readable.slices(ram, buf.len())? {
            let part = buf.get_mut(done..).unwrap_or_default();
            done += slice.copy_to(part);
        }
        self.readable.skip(done);
        Ok(done)
    }

    /// Copies a whole object of plain data out; `None` when fewer bytes are left than it has.
    ///
    /// # Errors
    /// See [`Buffers::slices`].
    pub fn read_obj<T: vm_memory::ByteValued + Default>(
        &mut self,
        ram: &GuestMemoryMmap,
    ) -> Result<Option<T>, QueueError> {
        let mut object = T::default();
        if self.readable.len() < size_of::<T>() {
            return Ok(None);
        }
        self.read(ram, object.as_mut_slice())?;
        Ok(Some(object))
    }

    /// Copies `bytes` into the device's part; returns how many fitted.
    ///
    /// # Errors
    /// See [`Buffers::slices`].
    pub fn write(&mut self, ram: &GuestMemoryMmap, bytes: &[u8]) -> Result<usize, QueueError> {
        let mut done = 0;
        for slice in self.writable.slices(ram, bytes.len())? {
            let part = bytes.get(done..done + slice.len()).unwrap_or_default();
            slice.copy_from(part);
            done += part.len();
        }
        self.wrote(done);
        Ok(done)
    }

    /// Notes that the next `n` bytes of the device's part were written by somebody else (a system call).
    pub fn wrote(&mut self, n: usize) {
        let n = n.min(self.writable.len());
        self.writable.skip(n);
        self.written += n;
    }

    /// The buffers to be read.
    pub fn readable_buffers(&self) -> &Buffers {
        &self.readable
    }

    /// The buffers to be written.
    pub fn writable_buffers(&self) -> &Buffers {
        &self.writable
    }

    /// Fills the device's part from `source`, at most `limit` bytes, without a copy on the way.
    ///
    /// # Errors
    /// The source's error, if not even one byte came.
    pub fn fill_from(
        &mut self,
        ram: &GuestMemoryMmap,
        source: &mut impl ReadVolatile,
        limit: usize,
    ) -> Result<usize, MoveError> {
        let n = self.writable.move_with(ram, limit, |slice| source.read_volatile(slice))?;
        self.written += n;
        Ok(n)
    }

    /// Hands the driver's bytes to `sink`, at most `limit`, without a copy on the way.
    ///
    /// # Errors
    /// The sink's error, if it took not even one byte.
    pub fn drain_to(
        &mut self,
        ram: &GuestMemoryMmap,
        sink: &mut impl WriteVolatile,
        limit: usize,
    ) -> Result<usize, MoveError> {
        self.readable.move_with(ram, limit, |slice| sink.write_volatile(slice))
    }
}

/// Reads the object at `at`; outside of RAM is an error of the driver's.
pub(super) fn read_obj<T: vm_memory::ByteValued>(
    ram: &GuestMemoryMmap,
    at: GuestAddress,
) -> Result<T, QueueError> {
    ram.read_obj(at).map_err(|_| QueueError::OutsideMemory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ram() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).expect("memory")
    }

    fn chain(ram: &GuestMemoryMmap, parts: &[(u64, u32, bool)]) -> Result<Chain, QueueError> {
        let mut chain = Chain::new(0);
        for (at, len, writable) in parts {
            chain.push(ram, (GuestAddress(*at), *len), *writable)?;
        }
        Ok(chain)
    }

    #[test]
    fn bytes_are_read_and_written_across_buffers() {
        let ram = ram();
        ram.write_slice(b"hello world", GuestAddress(0x100)).expect("written");
        let parts = [(0x100, 6, false), (0x106, 5, false), (0x200, 3, true), (0x300, 10, true)];
        let mut chain = chain(&ram, &parts).expect("a chain");
        let mut word = [0; 8];
        assert_eq!(chain.read(&ram, &mut word), Ok(8));
        assert_eq!(&word, b"hello wo");
        assert_eq!((chain.readable(), chain.writable()), (3, 13));
        assert_eq!(chain.write(&ram, b"abcdefgh"), Ok(8));
        assert_eq!((chain.writable(), chain.written()), (5, 8));
        let mut got = [0; 5];
        ram.read_slice(&mut got, GuestAddress(0x300)).expect("read");
        assert_eq!(&got, b"defgh");
        assert_eq!(chain.write(&ram, &[0; 100]), Ok(5), "no more than fits");
    }

    #[test]
    fn a_buffer_outside_memory_is_left_out_and_one_out_of_order_is_refused() {
        let ram = ram();
        for outside in [(0xfff0, 0x20, true), (u64::MAX, 2, false)] {
            let chain = chain(&ram, &[(8, 3, false), outside]).expect("a chain");
            assert!(chain.is_astray() && chain.readable() == 3 && chain.writable() == 0);
        }
        assert!(!chain(&ram, &[(0xffe0, 0x20, true)]).expect("a chain").is_astray());
        assert_eq!(chain(&ram, &[(0, 1, true), (8, 1, false)]).err(), Some(QueueError::Order));
    }

    #[test]
    fn an_object_longer_than_what_is_left_is_not_read_in_part() {
        let ram = ram();
        let mut chain = chain(&ram, &[(0, 7, false)]).expect("a chain");
        assert_eq!(chain.read_obj::<u64>(&ram), Ok(None));
        assert_eq!(chain.readable(), 7);
    }

    #[test]
    fn a_file_fills_a_chain_as_far_as_it_goes() {
        let ram = ram();
        let mut chain = chain(&ram, &[(0x10, 4, true), (0x20, 4, true)]).expect("a chain");
        let mut source: &[u8] = b"abcdef";
        assert_eq!(chain.fill_from(&ram, &mut source, usize::MAX).expect("filled"), 6);
        assert_eq!(chain.written(), 6);
        assert_eq!(ram.read_obj::<[u8; 2]>(GuestAddress(0x20)).expect("read"), *b"ef");
    }

    proptest! {
        #[test]
        fn skipping_and_limiting_never_lose_a_byte(
            lens in prop::collection::vec(0u32..50, 0..8), skip in 0usize..300, limit in 0usize..300
        ) {
            let ram = ram();
            let parts: Vec<_> = (0u64..).zip(&lens).map(|(i, len)| (i * 64, *len, true)).collect();
            let chain = chain(&ram, &parts).expect("a chain");
            let mut buffers = chain.writable;
            let all = buffers.len();
            buffers.skip(skip);
            prop_assert_eq!(buffers.len(), all.saturating_sub(skip));
            let sum: usize = buffers.slices(&ram, limit).expect("slices").iter().map(|s| s.len()).sum();
            prop_assert_eq!(sum, buffers.len().min(limit));
        }
    }
}
