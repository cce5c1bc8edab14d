//! The boot report: what a boot did, when, and at what price.
//!
//! 1. A [`Recorder`] goes with the machine. Who passes a [`Milestone`] calls [`Recorder::reach`], on any thread.
//! 2. At the end [`Recorder::finish`] makes a [`Report`] of it, which [`deliver`] writes as text, JSON or SVG.
//! 3. When a boot ended badly, the [`doctor`] is asked about it.
//!
//! Contract: without a report asked for, a milestone is one atomic store, so that the doctor knows how far a boot
//! came; no clock is read and nothing is counted.

pub mod doctor;
mod exits;
mod memory;
mod milestone;
mod recorder;
mod request;
mod summary;
mod svg;
mod text;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) use exits::TO_USERSPACE;
pub use exits::{Exits, Kind};
pub use memory::{Beside, beside};
pub use milestone::Milestone;
pub use recorder::{Counters, Recorder};
pub use request::Request;
pub use summary::{Reached, Report, Span};

/// Why a report could not be handed over.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// Its file cannot be written.
    #[error("the boot report {path} cannot be written: {why}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the host answered.
        why: io::Error,
    },
}

/// Writes `report` in the form that was asked for: to its file, or to standard error.
///
/// # Errors
/// The file cannot be written. A standard error that is gone is nobody's error.
pub fn deliver(request: &Request, report: &Report) -> Result<(), DeliveryError> {
    match request {
        Request::Off => Ok(()),
        Request::Text => say(&text::draw(report)),
        Request::Json => say(&report.json()),
        Request::JsonFile(path) => write(path, &report.json()),
        Request::Svg(path) => write(path, &svg::draw(report)),
    }
}

/// A standard error that nobody reads is nobody's loss.
fn say(text: &str) -> Result<(), DeliveryError> {
    let _ = io::stderr().write_all(text.as_bytes());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), DeliveryError> {
    fs::write(path, text).map_err(|why| DeliveryError::Write { path: path.to_owned(), why })
}

#[cfg(test)]
mod tests;
