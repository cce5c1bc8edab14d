//! Between two generations of one library: fuse-backend-rs knows guest memory and queues by vm-memory 0.17 and
//! virtio-queue 0.17, everything else here by 0.18. Their types meet in this module and nowhere else.

mod sys;

use std::io;
use std::ops::Deref;
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter};
use virtio_queue::QueueT;
use virtio_queue_of_fuse::{DescriptorChain, Queue, QueueOwnedT, QueueT as _};
use vm_memory::GuestMemoryMmap;
use vm_memory_of_fuse::{GuestAddress, GuestMemoryMmap as Ram};

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

    /// Has `server` serve it; the bytes of its reply. A request that makes no sense gets none.
    pub(super) fn serve<F: FileSystem + Sync>(&self, server: &Server<F>) -> u32 {
        let memory: &Ram = self.0.memory();
        let reader = Reader::from_descriptor_chain(memory, self.0.clone());
        let writer = VirtioFsWriter::new(memory, self.0.clone());
        let (reader, writer) = match (reader, writer) {
            (Ok(reader), Ok(writer)) => (reader, writer),
            (reader, writer) => {
                log::debug!("a request does not lie in guest memory: {:?} {:?}", reader.err(), writer.err());
                return 0;
            }
        };
        match server.handle_message(reader, writer.into(), None, None) {
            Ok(len) => u32::try_from(len).unwrap_or(u32::MAX),
            Err(why) => {
                log::debug!("a request makes no sense: {why}");
                0
            }
        }
    }
}
