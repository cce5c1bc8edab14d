//! Devices whose queues somebody else runs: siblings of those whose queues we run, with the same contract.

pub mod kernel;
mod sys;
