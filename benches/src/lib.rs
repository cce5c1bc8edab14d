//! Boots with a stopwatch: one VMM, one guest, from exec to the marker its init writes.
//!
//! 1. A [`Subject`] is a VMM with its words for a [`Guest`]; all subjects of a comparison get the same guest.
//! 2. [`time`] boots it once and tells when the marker came; nothing else watches, so nothing else costs.
//! 3. [`count`] boots it once under the kernel's own tracing and tells what it cost besides time: VM exits, returns
//!    to userspace, the way to the first guest entry, memory beside the guest's. Its times are not comparable.
//!
//! Devices are compared by the work of a guest that lives: a [`Machine`] has [`Devices`], and its guest the program
//! `load` ([`load`]), which does what the host wants; [`Compared`] is what it took ours and another's.
//!
//! On the instruction clock of the test bed a nanosecond is an instruction. Comparisons are interleaved: one boot of
//! each subject, then the next of each.

mod boot;
mod compared;
mod count;
mod devices;
pub mod load;
mod machine;
mod memory;
mod subject;
mod tracing;

pub use boot::{BootError, MARKER, Timed, time};
pub use compared::{Compared, DeviceLine, Times};
pub use count::{Counted, count};
pub use devices::Devices;
pub use machine::{Machine, MachineError};
pub use memory::Beside;
pub use subject::{Guest, Subject};

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a stopwatch shall do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Whom to boot, in this order in every round.
    pub subjects: Vec<Subject>,
    /// Timed rounds, after one that is discarded.
    pub rounds: u32,
    /// The guests' memory in MiB.
    pub mib: u32,
    /// Seconds, by the clock that measures, after which a boot hangs.
    pub deadline: u64,
    /// Whether a round of counting follows.
    pub count: bool,
    /// Kernels to be copied first, with holes for their zeros as the kernel cache leaves them: from, to.
    pub sparse: Vec<(PathBuf, PathBuf)>,
}

/// A line of a stopwatch's output, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Line {
    /// A boot that was timed.
    Timed {
        /// Whose.
        subject: String,
        /// Which round; 0 is the one to be discarded.
        round: u32,
        /// What it took.
        timed: Timed,
    },
    /// A boot that was counted.
    Counted {
        /// Whose.
        subject: String,
        /// What it cost.
        counted: Counted,
    },
}
