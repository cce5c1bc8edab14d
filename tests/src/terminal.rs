//! A terminal with somebody in front of it: types, reads, and sees in which mode it is.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};

/// A pseudo-terminal in the mode terminals begin in.
#[derive(Debug)]
pub struct Terminal {
    keys: File,
    slave: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// A new terminal, and a thread that reads what is written to it.
    pub fn new() -> Self {
        let pair = openpty(None, None).expect("the host has pseudo-terminals");
        let keys = File::from(pair.master);
        let mut screen = keys.try_clone().expect("a descriptor");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let written = seen.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = screen.read(&mut bytes) {
                written.lock().expect("text").extend(bytes.get(..n).unwrap_or_default());
            }
        });
        Self { keys, slave: pair.slave, seen }
    }

    /// Starts `command` with this terminal as all of its standard files.
    pub fn start(&self, command: &mut Command) -> Child {
        let end = || self.slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("it starts")
    }

    /// The terminal's mode.
    pub fn mode(&self) -> Termios {
        tcgetattr(self.slave.as_fd()).expect("a terminal has a mode")
    }

    /// Whether keys go to the program as they are, without echo.
    pub fn is_raw(&self) -> bool {
        !self.mode().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Types `keys`.
    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("keys can be pressed");
    }

    /// All that was written to it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("text")).into_owned()
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}
