//! The kernel command line: the tuned default, and putting it where the kernel looks.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::BootError;
use crate::arch::layout;

/// What a sandbox's kernel is told when nobody says otherwise. Each word spares the guest work at boot, or
/// makes an end visible:
/// - `console=ttyS0 quiet`: a console, silent unless something is wrong; every serial byte is a VM exit;
/// - `panic=-1`: a panic ends in a reset at once, instead of a hang;
/// - `no_timer_check noreplace-smp`: nothing to check or to patch back under a hypervisor;
/// - `rcupdate.rcu_expedited=1 cryptomgr.notests random.trust_cpu=on`: no waiting, no self-tests;
/// - `tsc=reliable`: no watchdog over a clock that kvmclock vouches for;
/// - `8250.nr_uarts=1`: only the port that exists is probed.
///
/// A file of its own, so that measurements can give the same line to other VMMs.
pub(crate) const DEFAULT: &str = include_str!("default.cmdline").trim_ascii();

/// Writes `cmdline` and its terminator.
pub(super) fn write(ram: &GuestMemoryMmap, cmdline: &str) -> Result<(), BootError> {
    let max = layout::CMDLINE_MAX - 1;
    if cmdline.len() > max {
        return Err(BootError::Cmdline { len: cmdline.len(), max });
    }
    let mut raw = cmdline.as_bytes().to_vec();
    raw.push(0);
    Ok(ram.write_slice(&raw, GuestAddress(layout::CMDLINE))?)
}
