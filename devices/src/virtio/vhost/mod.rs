//! Devices whose queues somebody else runs: siblings of those whose queues we run, with the same contract.

mod deadline;
mod refusals;
pub mod user;

pub use deadline::Deadline;
