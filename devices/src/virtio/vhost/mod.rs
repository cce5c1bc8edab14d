//! Devices whose queues somebody else runs: siblings of those whose queues we run, with the same contract.

mod deadline;
pub mod kernel;
pub mod requests;
mod sys;
pub mod user;

pub use deadline::Deadline;
