//! Runs the command: in the foreground, with signals forwarded, orphans reaped.

use std::fs::File;
use std::io;
use std::process::{Command, Stdio};

use crate::order::Order;
use crate::sys::{self, Event};

const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs the command to its end and gives its status as a shell would: its own, or 128 + the signal's number.
pub(crate) fn run(order: &Order, terminal: Option<&File>) -> u8 {
    // Before the command starts, so that no signal between here and the wait is lost.
    sys::block_signals();
    match start(order, terminal) {
        Ok(pid) => attend(pid),
        Err(error) => refuse(order, &error),
    }
}

fn start(order: &Order, terminal: Option<&File>) -> io::Result<i32> {
    let (program, arguments) = order.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(order.env.iter().map(|(name, value)| (name, value)));
    if let Some(folder) = &order.folder {
        command.current_dir(folder);
    }
    if let Some(terminal) = terminal {
        command.stdin(Stdio::from(terminal.try_clone()?));
        command.stdout(Stdio::from(terminal.try_clone()?));
        command.stderr(Stdio::from(terminal.try_clone()?));
    }
    sys::in_foreground(&mut command);
    let child = command.spawn()?;
    Ok(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Serves as process 1 until the command has ended.
fn attend(command: i32) -> u8 {
    loop {
        match sys::next_event() {
            Event::Child => {
                if let Some(status) = reap(command) {
                    return status;
                }
            }
            Event::Signal(signal) => sys::signal_group(command, signal),
        }
    }
}

/// Reaps all that have ended; gives the command's status if it is among them.
fn reap(command: i32) -> Option<u8> {
    let mut status = None;
    while let Some((pid, wait_status)) = sys::reap_one() {
        if pid == command {
            status = Some(shell_status(wait_status));
        }
    }
    status
}

fn shell_status(wait_status: i32) -> u8 {
    let number = match libc::WIFSIGNALED(wait_status) {
        true => 128 + libc::WTERMSIG(wait_status),
        false => libc::WEXITSTATUS(wait_status),
    };
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn refuse(order: &Order, error: &io::Error) -> u8 {
    let program = order.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    if error.kind() == io::ErrorKind::NotFound {
        eprintln!("guest-init: {program}: no such command in the guest");
        return NOT_FOUND;
    }
    eprintln!("guest-init: {program}: can't be run in the guest: {error}");
    NOT_EXECUTABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_as_a_shell_tells_it() {
        assert_eq!(shell_status(7 << 8), 7);
        assert_eq!(shell_status(libc::SIGKILL), 137);
        assert_eq!(shell_status(255 << 8), 255);
    }
}
