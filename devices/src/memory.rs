//! Guest memory as devices see it.

use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

/// The guest's RAM: a cheap clone of a handle to a map that memory hotplug may replace.
pub type GuestRam = GuestMemoryAtomic<GuestMemoryMmap>;
