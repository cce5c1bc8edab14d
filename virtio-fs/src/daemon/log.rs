//! Where lines go: standard error, or the system's log.
//!
//! A guest can cause lines, as many as it likes; so there are only so many of them in a while.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Lines in a while, and how long that is.
const MOST: u32 = 100;
const WHILE: Duration = Duration::from_secs(10);

/// Facility daemon (syslog(3)).
const DAEMON: u8 = 3 << 3;

struct Lines {
    syslog: Option<UnixDatagram>,
    /// When the while began, and the lines in it.
    lately: Mutex<(Instant, u32)>,
}

/// Has lines written from now on. Called once, before the sandbox is entered: the system's log is outside.
pub(super) fn begin(level: LevelFilter, syslog: bool) {
    let syslog = syslog.then(UnixDatagram::unbound).and_then(Result::ok);
    let syslog = syslog.filter(|socket| socket.connect("/dev/log").is_ok());
    let lines = Lines { syslog, lately: Mutex::new((Instant::now(), 0)) };
    if log::set_boxed_logger(Box::new(lines)).is_ok() {
        log::set_max_level(level);
    }
}

impl Lines {
    fn may(&self) -> bool {
        let Ok(mut lately) = self.lately.lock() else { return false };
        if lately.0.elapsed() > WHILE {
            *lately = (Instant::now(), 0);
        }
        lately.1 += 1;
        lately.1 <= MOST
    }
}

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if !self.may() {
            return;
        }
        let text = format!("kiwi-virtiofsd: {}: {}", record.level().as_str().to_lowercase(), record.args());
        // A log that is gone, or full, holds nobody up and has nobody to tell.
        let _ = match &self.syslog {
            Some(socket) => socket.send(format!("<{}>{text}", DAEMON + severity(record.level())).as_bytes()),
            None => std::io::stderr().write(format!("{text}\n").as_bytes()),
        };
    }

    fn flush(&self) {}
}

fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
