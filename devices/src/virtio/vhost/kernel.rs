//! Queues that the host's kernel runs: `/dev/vhost-net` and `/dev/vhost-vsock`.
//!
//! 1. [`Node::claim`] takes an open device for this process and asks what it can, while the machine is built.
//! 2. [`Node::start`] hands over guest memory, features, rings, kicks and calls, and switches the queues on.
//! 3. From here on nothing of this process is between the guest's driver and the kernel.
//! 4. [`Node::stop`] switches them off, which returns when the kernel touches guest memory no more. Then again from 2.
//!
//! Start and stop are made by the device's own thread, which may make [`CALLS`]: no vCPU may, and what only set-up
//! needs (to change owner, to log writes to an address) nobody may once the guest runs.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vhost::vhost_kern::VhostKernBackend;
use vhost::vhost_kern::vhost_binding::{vhost_memory, vhost_vring_addr, vhost_vring_file, vhost_vring_state};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr};

use super::sys;
use crate::confine::Call;
use crate::memory::GuestRam;
use crate::virtio::spec::feature;
use crate::virtio::{Features, Progress, QueueGrant};

/// The type of all vhost requests (linux/vhost.h).
const VHOST: u32 = 0xaf;

/// A request's number; the `vhost` crate has them as functions, a filter's list wants constants.
#[allow(clippy::cast_possible_truncation)] // a request has 32 bits, of which 14 are the structure's size
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    ioctl_expr(direction, VHOST, number, size as u32) as u32
}

/// What starting and stopping asks of the kernel. Denied are SET_OWNER, RESET_OWNER, SET_LOG_BASE, SET_LOG_FD,
/// SET_VRING_ERR, SET_GUEST_CID and all others.
pub const CALLS: [Call; 1] = [Call::Only(
    libc::SYS_ioctl,
    1,
    &[
        request(_IOC_WRITE, 0x00, size_of::<u64>()), // SET_FEATURES
        request(_IOC_WRITE, 0x03, size_of::<vhost_memory>()), // SET_MEM_TABLE
        request(_IOC_WRITE, 0x10, size_of::<vhost_vring_state>()), // SET_VRING_NUM
        request(_IOC_WRITE, 0x11, size_of::<vhost_vring_addr>()), // SET_VRING_ADDR
        request(_IOC_WRITE, 0x12, size_of::<vhost_vring_state>()), // SET_VRING_BASE
        request(_IOC_READ | _IOC_WRITE, 0x12, size_of::<vhost_vring_state>()), // GET_VRING_BASE
        request(_IOC_WRITE, 0x20, size_of::<vhost_vring_file>()), // SET_VRING_KICK
        request(_IOC_WRITE, 0x21, size_of::<vhost_vring_file>()), // SET_VRING_CALL
        request(_IOC_WRITE, 0x30, size_of::<vhost_vring_file>()), // NET_SET_BACKEND
        request(_IOC_WRITE, 0x61, size_of::<i32>()), // VSOCK_SET_RUNNING
    ],
)];

/// What the kernel works its queues on.
#[derive(Debug)]
pub enum Backend {
    /// Connections of this host, as the guest of this context id.
    Vsock(u64),
    /// One queue of a tap.
    Net(File),
}

impl Backend {
    /// What the node is called.
    const fn name(&self) -> &'static str {
        match self {
            Self::Vsock(_) => "vhost-vsock",
            Self::Net(_) => "vhost-net",
        }
    }

    /// Whether `node` is of this kind: each kind has a request that the other does not know. One that it knows may
    /// fail, for there are no rings yet; switching off what is not on changes nothing.
    fn is_kind_of(&self, node: &File) -> bool {
        let asked = match self {
            Self::Vsock(_) => sys::set_running(node, false),
            Self::Net(_) => sys::set_net_backend(node, 0, None),
        };
        !asked.is_err_and(|why| why.raw_os_error() == Some(libc::ENOTTY))
    }

    fn set_up(&self, node: &File) -> io::Result<()> {
        match self {
            Self::Vsock(cid) => sys::set_cid(node, *cid),
            Self::Net(_) => Ok(()),
        }
    }

    fn switch(&self, node: &File, on: bool) -> io::Result<()> {
        match self {
            Self::Vsock(_) => sys::set_running(node, on),
            Self::Net(tap) => {
                (0..QUEUES).try_for_each(|queue| sys::set_net_backend(node, queue, Some(tap).filter(|_| on)))
            }
        }
    }
}

/// Queues of a node of either kind: receive and transmit.
const QUEUES: u32 = 2;

/// Why a node cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// An open file that is something else.
    #[error("it is no {0} device")]
    Kind(&'static str),
    /// Somebody else has it.
    #[error("another process uses it already")]
    Owned,
    /// The guest's context id is taken.
    #[error("the context id {0} is in use by another machine of this host")]
    Cid(u64),
    /// A kernel that is too old.
    #[error("this host's kernel lacks the virtio features {0:#x} for it")]
    Features(u64),
    /// The host refused something.
    #[error("the host refused to {what}: {source}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// A device of the kernel's, owned by this process.
#[derive(Debug)]
pub struct Node {
    file: File,
    backend: Backend,
    features: u64,
    ram: GuestRam,
    /// Signalled by the kernel when the driver has broken a ring.
    failed: EventFd,
    /// Where the kernel signals what nobody wants to hear.
    unheard: EventFd,
}

impl AsRawFd for Node {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Node {
    type AS = GuestRam;

    fn mem(&self) -> &GuestRam {
        &self.ram
    }
}

fn plain(error: vhost::Error) -> io::Error {
    match error {
        vhost::Error::IoctlError(error) => error,
        other => io::Error::other(other),
    }
}

impl Node {
    /// Takes `file`, an open node, for this process and `backend`.
    ///
    /// # Errors
    /// It is something else, or somebody else's, or the host has no eventfd.
    pub fn claim(file: File, backend: Backend) -> Result<Self, ClaimError> {
        let host = |what| move |source| ClaimError::Host { what, source };
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(host("make an eventfd"));
        let ram = GuestRam::new(GuestMemoryMmap::new());
        let mut node = Self { file, backend, features: 0, ram, failed: event()?, unheard: event()? };
        node.own()?;
        node.features = node.get_features().map_err(plain).map_err(host("tell the features of vhost"))?;
        let lacking = feature::COMMON & !node.features;
        if lacking != 0 {
            return Err(ClaimError::Features(lacking));
        }
        for queue in 0..QUEUES as usize {
            let set = node.set_vring_err(queue, &node.failed).map_err(plain);
            set.map_err(host("watch a vhost queue"))?;
        }
        node.backend.set_up(&node.file).map_err(|source| match (&node.backend, source.raw_os_error()) {
            (Backend::Vsock(cid), Some(libc::EADDRINUSE)) => ClaimError::Cid(*cid),
            _ => ClaimError::Host { what: "set up a vhost device", source },
        })?;
        Ok(node)
    }

    fn own(&self) -> Result<(), ClaimError> {
        let kind = ClaimError::Kind(self.backend.name());
        match self.set_owner().map_err(plain) {
            Ok(()) if self.backend.is_kind_of(&self.file) => Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Err(ClaimError::Owned),
            Ok(()) | Err(_) => Err(kind),
        }
    }

    /// The features that the kernel understands, of rings and of the device.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Readable when the driver has broken a ring; the kernel then works that ring no more.
    pub fn failed(&self) -> &EventFd {
        &self.failed
    }

    /// Has the kernel work `rings`: one grant for each of the node's queues, in order.
    ///
    /// # Errors
    /// The host refused; then nothing is being worked.
    pub fn start(&mut self, ram: &GuestRam, features: Features, rings: &[QueueGrant]) -> io::Result<()> {
        // A word about a ring of before.
        let _ = self.failed.read();
        self.ram = ram.clone();
        self.set_mem_table(&regions(&ram.memory())?).map_err(plain)?;
        self.set_features(features.0 & self.features).map_err(plain)?;
        for (queue, ring) in rings.iter().enumerate() {
            self.place(queue, ring).map_err(plain)?;
        }
        self.backend.switch(&self.file, true).inspect_err(|_| {
            // Of two queues the first may be on.
            let _ = self.backend.switch(&self.file, false);
        })
    }

    fn place(&self, queue: usize, grant: &QueueGrant) -> Result<(), vhost::Error> {
        let ring = grant.ring;
        self.set_vring_num(queue, ring.size)?;
        self.set_vring_base(queue, grant.from.next_avail)?;
        self.set_vring_addr(
            queue,
            &VringConfigData {
                queue_max_size: ring.size,
                queue_size: ring.size,
                flags: 0,
                desc_table_addr: ring.desc,
                used_ring_addr: ring.used,
                avail_ring_addr: ring.avail,
                log_addr: None,
            },
        )?;
        self.set_vring_call(queue, grant.call.eventfd().unwrap_or(&self.unheard))?;
        self.set_vring_kick(queue, &grant.kick)
    }

    /// Has the kernel work no queue any more; how far each of `rings`, those of the start, got.
    pub fn stop(&mut self, rings: &[QueueGrant]) -> Vec<Progress> {
        if let Err(why) = self.backend.switch(&self.file, false) {
            tracing::error!("{} does not stop: {why}", self.backend.name());
        }
        rings.iter().enumerate().map(|(queue, grant)| self.progress(queue, grant)).collect()
    }

    fn progress(&self, queue: usize, grant: &QueueGrant) -> Progress {
        let next_avail = self.get_vring_base(queue).ok().and_then(|base| u16::try_from(base).ok());
        // The kernel keeps its place in the used ring to itself, but has shown it to the driver (2.7.8).
        let used = grant.ring.used.checked_add(2).map(GuestAddress);
        let shown = used.and_then(|at| self.ram.memory().read_obj::<u16>(at).ok());
        Progress {
            next_avail: next_avail.unwrap_or(grant.from.next_avail),
            next_used: shown.map_or(grant.from.next_used, u16::from_le),
        }
    }
}

/// Guest memory as the kernel wants it told.
fn regions(ram: &GuestMemoryMmap) -> io::Result<Vec<VhostUserMemoryRegionInfo>> {
    ram.iter()
        .map(|region| {
            let host = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
            Ok(VhostUserMemoryRegionInfo {
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host as u64,
                // The kernel uses this process's own mapping.
                mmap_offset: 0,
                mmap_handle: -1,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vhost::vhost_kern::vhost_binding as binding;

    fn listed() -> &'static [u32] {
        match CALLS {
            [Call::Only(libc::SYS_ioctl, 1, list)] => list,
            _ => unreachable!("one list of requests"),
        }
    }

    #[test]
    fn a_start_and_a_stop_may_be_made_and_nothing_else() {
        let allowed = [
            binding::VHOST_SET_FEATURES(),
            binding::VHOST_SET_MEM_TABLE(),
            binding::VHOST_SET_VRING_NUM(),
            binding::VHOST_SET_VRING_ADDR(),
            binding::VHOST_SET_VRING_BASE(),
            binding::VHOST_GET_VRING_BASE(),
            binding::VHOST_SET_VRING_KICK(),
            binding::VHOST_SET_VRING_CALL(),
            binding::VHOST_NET_SET_BACKEND(),
            binding::VHOST_VSOCK_SET_RUNNING(),
        ];
        assert_eq!(listed().iter().map(|n| u64::from(*n)).collect::<Vec<_>>(), allowed);
        for denied in [
            binding::VHOST_SET_OWNER(),
            binding::VHOST_SET_LOG_BASE(),
            binding::VHOST_SET_LOG_FD(),
            binding::VHOST_SET_VRING_ERR(),
            binding::VHOST_VSOCK_SET_GUEST_CID(),
        ] {
            assert!(!listed().iter().any(|n| u64::from(*n) == denied));
        }
    }

    #[test]
    fn a_file_that_is_no_vhost_device_is_refused_by_name() {
        let null = || File::open("/dev/null").expect("a file");
        let refused = Node::claim(null(), Backend::Vsock(3)).expect_err("no vhost");
        assert_eq!(refused.to_string(), "it is no vhost-vsock device");
        let refused = Node::claim(null(), Backend::Net(null())).expect_err("no vhost");
        assert_eq!(refused.to_string(), "it is no vhost-net device");
    }

    #[test]
    fn guest_memory_is_told_whole() {
        let ram = crate::testing::ram();
        let regions = regions(&ram.memory()).expect("regions");
        let told: Vec<_> = regions.iter().map(|r| (r.guest_phys_addr, r.memory_size)).collect();
        assert_eq!(told, [(0, 1 << 20), (0x1000_0000, 1 << 20)]);
        assert!(regions.iter().all(|r| r.userspace_addr != 0));
    }
}
