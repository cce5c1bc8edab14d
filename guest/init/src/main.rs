//! Process 1 of a Kiwi guest.
//!
//! Contract: `/kiwi/command` (argv, each ended by NUL), `/kiwi/env` (`K=V`, each ended by NUL), `/kiwi/modules`
//! (module paths in load order, one a line), `/kiwi/mounts` (type, source and place of file systems, each ended by NUL),
//! `/kiwi/folder` (where the command runs) and `/kiwi/interactive` (empty: the command gets a cooked terminal) say what
//! to do; all are optional. Without a command it runs `/bin/sh` on a cooked terminal. Two ports tell the
//! VMM how far it came (0x608) and how the command ended (0x60c); a VMM that lacks them ignores the writes.
//!
//! Life cycle:
//! 1. mark 1; mounts proc, sys, dev, devpts, run and tmp;
//! 2. loads the modules; mark 2;
//! 3. makes `/dev/hvc0`, else `/dev/ttyS0`, else `/dev/console` its controlling terminal;
//! 4. mounts what is ordered; mark 3; starts the command in the terminal's foreground;
//! 5. forwards signals to it and reaps orphans until it ends;
//! 6. drains the terminal, reports the exit status, syncs, powers off.

mod boot;
mod job;
mod order;
mod sys;
mod tty;

use order::Order;
use sys::{Mark, Ports};

fn main() {
    let ports = Ports::open();
    ports.mark(Mark::Entered);
    boot::mount_all();
    boot::load_modules();
    ports.mark(Mark::ModulesLoaded);
    let order = Order::read(order::FOLDER.as_ref());
    let terminal = tty::open(order.interactive);
    boot::mount_ordered(&order.mounts);
    ports.mark(Mark::Ready);
    // The command shall not inherit the ports.
    drop(ports);
    let status = job::run(&order, terminal.as_ref());
    if let Some(terminal) = &terminal {
        sys::drain(terminal);
    }
    Ports::open().exit_status(status);
    sys::power_off();
}

/// Says what went wrong, on the console.
fn complain(what: &str, error: &std::io::Error) {
    eprintln!("guest-init: {what}: {error}");
}
