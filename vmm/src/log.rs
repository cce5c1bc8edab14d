//! The log: where `tracing`'s events (and those of crates that use `log`) are written.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Mutex;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::cli::LogOptions;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The file cannot be written.
    #[error("the log file {path} cannot be opened for writing: {why}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the host answered.
        why: std::io::Error,
    },
}

/// Starts the log for the rest of the process; the first start counts.
pub(crate) fn start(options: &LogOptions) -> Result<(), LogError> {
    match &options.file {
        _ if options.level == LevelFilter::OFF => {}
        Some(path) => {
            let file = open(path).map_err(|why| LogError::Open { path: path.clone(), why })?;
            subscribe(options.level, Mutex::new(file));
        }
        None => subscribe(options.level, std::io::stderr),
    }
    Ok(())
}

fn open(path: &PathBuf) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

fn subscribe<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(level: LevelFilter, writer: W) {
    // A second start can only come from a test: the first log goes on.
    let _ = tracing_subscriber::fmt().with_max_level(level).with_ansi(false).with_writer(writer).try_init();
}
