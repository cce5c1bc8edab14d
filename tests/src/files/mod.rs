//! System calls on files that neither std nor nix has.

mod sys;

pub use sys::{attribute, attributes, mapped, remove_attribute, set_attribute, write_mapped};
