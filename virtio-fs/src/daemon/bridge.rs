//! Between two generations of one library: fuse-backend-rs knows guest memory and queues by vm-memory 0.17 and
//! virtio-queue 0.17, everything else here by 0.18. Their types meet in this module and nowhere else.

mod sys;

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::{InHeader, OutHeader};
use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FsCacheReqHandler, Reader, VirtioFsWriter};
use virtio_queue::QueueT;
use virtio_queue_of_fuse::{DescriptorChain, Queue, QueueOwnedT, QueueT as _};
use vm_memory::GuestMemoryMmap;
use vm_memory_of_fuse::{Bytes as _, GuestAddress, GuestMemory as _, GuestMemoryMmap as Ram};

use super::dax::{Changing, Window};

/// Guest memory as the FUSE library sees it. A cheap clone.
#[derive(Clone, Debug)]
pub(super) struct Memory(Arc<Both>);

#[derive(Debug)]
struct Both {
    ram: Ram,
    /// Keeps mapped what the other is a view of.
    _mapped: GuestMemoryMmap,
}

impl Deref for Memory {
    type Target = Ram;

    fn deref(&self) -> &Ram {
        &self.0.ram
    }
}

/// A request: a chain of buffers.
#[derive(Debug)]
pub(super) struct Request(DescriptorChain<Memory>);

fn bad<E: std::fmt::Debug>(error: E) -> io::Error {
    io::Error::other(format!("{error:?}"))
}

impl Memory {
    /// The same memory for the FUSE library.
    ///
    /// # Errors
    /// It cannot be laid out.
    pub(super) fn new(mapped: GuestMemoryMmap) -> io::Result<Self> {
        Ok(Self(Arc::new(Both { ram: sys::same(&mapped)?, _mapped: mapped })))
    }

    /// The next request that `queue` has, if it is live and has one.
    ///
    /// # Errors
    /// The guest broke it.
    pub(super) fn next(&self, queue: &mut virtio_queue::Queue) -> io::Result<Option<Request>> {
        if !queue.ready() {
            return Ok(None);
        }
        let mut view = Queue::new(queue.size()).map_err(bad)?;
        view.try_set_desc_table_address(GuestAddress(queue.desc_table())).map_err(bad)?;
        view.try_set_avail_ring_address(GuestAddress(queue.avail_ring())).map_err(bad)?;
        view.try_set_used_ring_address(GuestAddress(queue.used_ring())).map_err(bad)?;
        view.set_next_avail(queue.next_avail());
        view.set_ready(true);
        let chain = view.iter(self.clone()).map_err(bad)?.next();
        queue.set_next_avail(view.next_avail());
        Ok(chain.map(Request))
    }
}

impl Request {
    /// By which the guest knows it.
    pub(super) fn head(&self) -> u16 {
        self.0.head_index()
    }

    /// Has `server` serve it, and `window` be changed; the bytes of its reply. A request that makes no sense gets none.
    pub(super) fn serve<F: FileSystem + Sync>(
        &self,
        server: &Server<F>,
        window: Option<&Arc<Window>>,
    ) -> u32 {
        let memory: &Ram = self.0.memory();
        let reader = Reader::from_descriptor_chain(memory, self.0.clone());
        let writer = VirtioFsWriter::new(memory, self.0.clone());
        let (reader, writer) = match (reader, writer) {
            (Ok(reader), Ok(writer)) => (reader, writer),
            (reader, writer) => {
                log::debug!("a request does not lie in guest memory: {:?} {:?}", reader.err(), writer.err());
                return self.refuse().unwrap_or(0);
            }
        };
        let mut window = window.cloned().map(Changing);
        let window = window.as_mut().map(|window| -> &mut dyn FsCacheReqHandler { window });
        match server.handle_message(reader, writer.into(), window, None) {
            Ok(len) => u32::try_from(len).unwrap_or(u32::MAX),
            Err(why) => {
                log::debug!("a request makes no sense: {why}");
                0
            }
        }
    }

    /// Answers EFAULT, if the heads of the request and of its reply lie in guest memory; the bytes of the reply.
    ///
    /// Linux makes such requests for a process that reads or writes with O_DIRECT from or to a file that it has mapped in a
    /// DAX window, which is no memory of the guest's here. Given back without an answer, the request would have for one
    /// whatever lies in its place.
    fn refuse(&self) -> Option<u32> {
        let memory: &Ram = self.0.memory();
        let (head, reply) = (self.0.clone().readable().next()?, self.0.clone().writable().next()?);
        if (head.len() as usize) < size_of::<InHeader>() || (reply.len() as usize) < size_of::<OutHeader>() {
            return None;
        }
        let InHeader { unique, .. } = memory.read_obj(head.addr()).ok()?;
        let len = u32::try_from(size_of::<OutHeader>()).ok()?;
        // Asked for before, or a part of it might be written.
        memory.check_range(reply.addr(), size_of::<OutHeader>()).then_some(())?;
        memory.write_obj(OutHeader { len, error: -libc::EFAULT, unique }, reply.addr()).ok()?;
        Some(len)
    }
}
