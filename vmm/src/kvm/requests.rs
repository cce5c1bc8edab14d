//! What running threads still ask of KVM, for their filters. Set-up asks for more, before any thread is confined.

use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_regs};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

/// A request's number, by its place in linux/kvm.h and the structure it names.
#[allow(clippy::cast_possible_truncation)] // a request has 32 bits, of which 14 are the structure's size
const fn request(direction: u32, number: u32, size: usize) -> u32 {
    ioctl_expr(direction, KVMIO, number, size as u32) as u32
}

const RUN: u32 = request(_IOC_NONE, 0x80, 0);
const GET_REGS: u32 = request(_IOC_READ, 0x81, size_of::<kvm_regs>());
const SET_GSI_ROUTING: u32 = request(_IOC_WRITE, 0x6a, size_of::<kvm_irq_routing>());
const IRQFD: u32 = request(_IOC_WRITE, 0x76, size_of::<kvm_irqfd>());
const IOEVENTFD: u32 = request(_IOC_WRITE, 0x79, size_of::<kvm_ioeventfd>());

/// On a vCPU's thread: entering the guest, saying where it stands, and what a guest that programs interrupt
/// controllers and transports brings about. The first is by far the most frequent, and is compared first.
pub(crate) const VCPU_REQUESTS: &[u32] = &[RUN, IRQFD, SET_GSI_ROUTING, IOEVENTFD, GET_REGS];

/// On the thread that frees the machine.
pub(crate) const TEARDOWN_REQUESTS: &[u32] = &[IRQFD, SET_GSI_ROUTING, IOEVENTFD];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_kvm_gives_them() {
        // As strace prints them.
        assert_eq!([RUN, GET_REGS], [0xae80, 0x8090_ae81]);
        assert_eq!([SET_GSI_ROUTING, IRQFD, IOEVENTFD], [0x4008_ae6a, 0x4020_ae76, 0x4040_ae79]);
    }
}
