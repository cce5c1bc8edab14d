//! What is particular to a PC: addresses, CPUID, the state a processor starts in.

pub(crate) mod cpuid;
pub(crate) mod layout;
pub(crate) mod regs;
