//! KVM's binary statistics (Documentation/virt/kvm/api.rst, 4.133): exits by kind, counted by the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// Size of `struct kvm_stats_desc` before the name.
const DESC_FIXED: usize = 16;

/// Reads one vCPU's counters; usable from any thread while the vCPU runs.
#[derive(Debug)]
pub(crate) struct StatsReader {
    file: File,
    /// Name of each counter and its offset from the file's start.
    fields: Vec<(String, u64)>,
}

impl StatsReader {
    pub(super) fn open(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: the ioctl takes no argument and gives a new descriptor or an error.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return None;
        }
        // SAFETY: the descriptor is new and ours alone.
        let file = unsafe { File::from_raw_fd(fd) };
        let fields = Self::fields(&file)?;
        Some(Self { file, fields })
    }

    fn fields(file: &File) -> Option<Vec<(String, u64)>> {
        // struct kvm_stats_header: flags, name_size, num_desc, id_offset, desc_offset, data_offset
        let mut header = [0; 24];
        file.read_exact_at(&mut header, 0).ok()?;
        let word = |i: usize| header.get(i * 4..i * 4 + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (name_size, count, descs, data) = (word(1)? as usize, word(2)?, word(4)?, word(5)?);
        let mut fields = Vec::new();
        let mut desc = vec![0; DESC_FIXED + name_size];
        let step = desc.len() as u64;
        for i in 0..u64::from(count) {
            file.read_exact_at(&mut desc, u64::from(descs) + i * step).ok()?;
            // flags u32, exponent i16, size u16, offset u32, bucket_size u32, name
            let size = u16::from_le_bytes(desc.get(6..8)?.try_into().ok()?);
            let offset = u32::from_le_bytes(desc.get(8..12)?.try_into().ok()?);
            let name = desc.get(DESC_FIXED..)?.split(|b| *b == 0).next()?;
            if size == 1 {
                fields
                    .push((String::from_utf8_lossy(name).into_owned(), u64::from(data) + u64::from(offset)));
            }
        }
        Some(fields)
    }

    /// The counters' values now, by KVM's own names (`exits`, `io_exits`, `mmio_exits`, `halt_exits`, …).
    pub(crate) fn read(&self) -> BTreeMap<String, u64> {
        let value = |at: u64| {
            let mut raw = [0; 8];
            self.file.read_exact_at(&mut raw, at).ok().map(|()| u64::from_le_bytes(raw))
        };
        self.fields.iter().filter_map(|(name, at)| Some((name.clone(), value(*at)?))).collect()
    }
}
