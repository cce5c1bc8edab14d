//! The boot report: what a boot did, when, and at what price.

mod request;

pub use request::Request;
