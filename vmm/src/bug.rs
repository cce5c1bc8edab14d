//! What happens when we are wrong: a panic ends the process with one line and the status of a bug.

use std::panic::{self, PanicHookInfo};

use vmm::exit::status;

/// Has a panic on any thread call `restore` (which must leave the terminal as it was found), say where, and end the
/// process. A panic without this would leave other threads running a guest that nobody serves.
pub(crate) fn report_panics(restore: fn()) {
    panic::set_hook(Box::new(move |info| {
        restore();
        eprintln!("vmm: {}", line(info));
        std::process::exit(i32::from(status::BUG));
    }));
}

fn line(info: &PanicHookInfo<'_>) -> String {
    let what = info.payload_as_str().unwrap_or("a panic without a message");
    let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line())).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    format!("this is a bug in vmm, please report it: {what}{place}, thread {thread}")
}
