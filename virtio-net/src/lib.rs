//! virtio-net on a tap device: the queues run by the kernel's vhost-net where that can be had, by us otherwise.
//!
//! 1. A [`Tap`] is opened by name or inherited; header size and offloads are set by us, whoever opened it.
//! 2. [`Net::new`] makes the device of its taps, and claims a vhost-net node for each or makes a thread for each.
//! 3. Its driver ready, the device's control thread sets what was negotiated on the taps and has the kernel start, or
//!    the pairs' threads do (`tx`, `rx`).
//! 4. The control queue's commands, news of the link and a driver that breaks the rules are the control thread's.

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod control;
mod header;
mod net;
mod pair;
mod rx;
mod sys;
mod tap;
#[cfg(test)]
mod tests;
mod tx;
mod vhost;

pub use net::{Net, NetError, Options};
pub use tap::{Tap, TapError};
pub use vhost::{Vhost, VhostError};
