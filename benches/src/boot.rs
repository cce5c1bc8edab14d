//! One boot against the clock.
//!
//! Every VMM is seen alike, from outside: the serial port is a pipe, and the marker has come when its first byte
//! can be read there.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use crate::Subject;

/// What the guest's init writes to COM1.
pub const MARKER: &str = "KIWI-MARK";

/// Why a boot gave no time.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The program could not be started, or read from.
    #[error("{subject}: {doing} failed: {source}")]
    Host {
        /// Whose boot.
        subject: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The marker never came.
    #[error("{subject} {how} without the marker; it said:\n{said}")]
    NoMarker {
        /// Whose boot.
        subject: String,
        /// "hung", "ended".
        how: String,
        /// Its output.
        said: String,
    },
    /// It marked but did not end well.
    #[error("{subject} ended with {status} after the marker; it said:\n{said}")]
    Ended {
        /// Whose boot.
        subject: String,
        /// The exit status.
        status: ExitStatus,
        /// Its output.
        said: String,
    },
    /// The kernel's tracing did not tell what was asked of it.
    #[error("{subject}: the trace is no good: {why}")]
    Trace {
        /// Whose boot.
        subject: String,
        /// What is missing.
        why: String,
    },
}

impl BootError {
    pub(crate) fn host(subject: &Subject, doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let subject = subject.name.clone();
        move |source| Self::Host { subject, doing, source }
    }
}

/// The host's kernel may still be busy with the end of the machine before: what it frees after a grace period of its
/// RCU would be waited for by the next machine's creation.
pub(crate) const REST: Duration = Duration::from_millis(250);

/// What a boot took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// From before the VMM was started to the marker's first byte, in nanoseconds.
    pub marker: u64,
    /// To the end of its process.
    pub end: u64,
}

/// A VMM that has been started.
pub(crate) struct Running<'a> {
    subject: &'a Subject,
    child: Child,
    output: ChildStdout,
    said: Vec<u8>,
    started: Instant,
    deadline: Duration,
}

impl<'a> Running<'a> {
    pub(crate) fn start(subject: &'a Subject, deadline: Duration) -> Result<Self, BootError> {
        let (program, rest) = subject.words.split_first().map_or(("", &[][..]), |(p, r)| (p.as_str(), r));
        let mut command = Command::new(program);
        command.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let started = Instant::now();
        let mut child = command.spawn().map_err(BootError::host(subject, "starting it"))?;
        let output = child.stdout.take().ok_or_else(|| {
            BootError::host(subject, "taking its output")(std::io::ErrorKind::BrokenPipe.into())
        })?;
        Ok(Self { subject, child, output, said: Vec::new(), started, deadline })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads until the marker's first byte has come; when that was.
    pub(crate) fn marker(&mut self) -> Result<Duration, BootError> {
        let mut arrivals: Vec<(usize, Duration)> = Vec::new();
        let mut seen = None;
        while seen.is_none() {
            if !self.more()? {
                return Err(self.lost("ended"));
            }
            arrivals.push((self.said.len(), self.started.elapsed()));
            seen = self.said.windows(MARKER.len()).position(|w| w == MARKER.as_bytes());
        }
        let first = seen.unwrap_or_default();
        let at = arrivals.into_iter().find(|(end, _)| *end > first).map(|(_, at)| at);
        Ok(at.unwrap_or_else(|| self.started.elapsed()))
    }

    /// Reads the rest; how long it lived.
    pub(crate) fn end(mut self) -> Result<Duration, BootError> {
        while self.more()? {}
        let status = self.child.wait().map_err(BootError::host(self.subject, "waiting for it"))?;
        let lived = self.started.elapsed();
        if status.success() {
            return Ok(lived);
        }
        Err(BootError::Ended { subject: self.subject.name.clone(), status, said: self.text() })
    }

    /// Reads what has come; false at the end.
    fn more(&mut self) -> Result<bool, BootError> {
        let left = self.deadline.saturating_sub(self.started.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, timeout).map_err(std::io::Error::from);
        if ready.map_err(BootError::host(self.subject, "waiting for its output"))? == 0 {
            return Err(self.lost("hung"));
        }
        let mut chunk = [0; 4096];
        let n = self.output.read(&mut chunk).map_err(BootError::host(self.subject, "reading its output"))?;
        self.said.extend_from_slice(chunk.get(..n).unwrap_or_default());
        Ok(n > 0)
    }

    fn lost(&mut self, how: &str) -> BootError {
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let how = format!("{how} ({status})");
        BootError::NoMarker { subject: self.subject.name.clone(), how, said: self.text() }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }
}

/// Boots `subject` once against the clock; after `deadline` it hangs.
///
/// # Errors
/// It cannot be started, hangs, or ends without the marker or with another status than 0.
pub fn time(subject: &Subject, deadline: Duration) -> Result<Timed, BootError> {
    std::thread::sleep(REST);
    let mut running = Running::start(subject, deadline)?;
    let marker = running.marker()?;
    let end = running.end()?;
    let nanoseconds = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    Ok(Timed { marker: nanoseconds(marker), end: nanoseconds(end) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Subject {
        Subject { name: "sh".to_owned(), words: ["sh", "-c", script].map(str::to_owned).to_vec() }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_marker_is_timed_by_its_first_byte() {
        let timed = time(&shell("sleep 0.05; echo KIWI-MARK; sleep 0.2"), MINUTE).expect("timed");
        assert!(timed.marker >= 50_000_000 && timed.end >= timed.marker + 190_000_000, "{timed:?}");
    }

    #[test]
    fn a_boot_without_the_marker_is_an_error() {
        let error = time(&shell("echo something else"), MINUTE).expect_err("no marker");
        assert!(error.to_string().contains("something else"), "{error}");
    }

    #[test]
    fn a_boot_that_hangs_is_an_error() {
        let error = time(&shell("exec sleep 60"), Duration::from_millis(50)).expect_err("no marker");
        assert!(error.to_string().contains("hung"), "{error}");
    }

    #[test]
    fn a_bad_end_after_the_marker_is_an_error() {
        assert!(time(&shell("echo KIWI-MARK; exit 3"), MINUTE).is_err());
    }
}
