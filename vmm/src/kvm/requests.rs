//! What running threads still ask of KVM, for their filters. Set-up asks for more, before any thread is confined.

use devices::confine::Call;
use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_regs, kvm_userspace_memory_region};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

/// A request's number, by its place in linux/kvm.h and the structure it names.
#[allow(clippy::cast_possible_truncation)] // a request has 32 bits, of which 14 are the structure's size
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    ioctl_expr(direction, KVMIO, number, size as u32) as u32
}

const RUN: u32 = request(_IOC_NONE, 0x80, 0);
const GET_REGS: u32 = request(_IOC_READ, 0x81, size_of::<kvm_regs>());
const SET_USER_MEMORY_REGION: u32 = request(_IOC_WRITE, 0x46, size_of::<kvm_userspace_memory_region>());
const SET_GSI_ROUTING: u32 = request(_IOC_WRITE, 0x6a, size_of::<kvm_irq_routing>());
const IRQFD: u32 = request(_IOC_WRITE, 0x76, size_of::<kvm_irqfd>());
const IOEVENTFD: u32 = request(_IOC_WRITE, 0x79, size_of::<kvm_ioeventfd>());

/// On a vCPU's thread: entering the guest, saying where it stands, and what a guest that programs interrupt
/// controllers and transports brings about. The first is by far the most frequent, and is compared first.
pub(crate) const VCPU_REQUESTS: &[u32] = &[RUN, IRQFD, SET_GSI_ROUTING, IOEVENTFD, GET_REGS];

/// On the thread that frees the machine.
pub(crate) const TEARDOWN_REQUESTS: &[u32] = &[IRQFD, SET_GSI_ROUTING, IOEVENTFD];

/// On both where a device has a shared memory region: it is shown, moved and taken away by a guest's registers and at the
/// machine's end. Whoever may ask for this can give the guest any memory of this process, so nobody else may.
const MEMORY_REQUESTS: Call = Call::Only(libc::SYS_ioctl, 1, &[SET_USER_MEMORY_REGION]);

/// `calls`, and where the machine `moves_memory` what that takes.
pub(crate) fn with_memory(calls: &[Call], moves_memory: bool) -> Vec<Call> {
    calls.iter().copied().chain(moves_memory.then_some(MEMORY_REQUESTS)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_kvm_gives_them() {
        // As strace prints them.
        assert_eq!([RUN, GET_REGS], [0xae80, 0x8090_ae81]);
        assert_eq!([SET_GSI_ROUTING, IRQFD, IOEVENTFD], [0x4008_ae6a, 0x4020_ae76, 0x4040_ae79]);
        assert_eq!(SET_USER_MEMORY_REGION, 0x4020_ae46);
    }
}
