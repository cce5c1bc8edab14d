//! What a fuzz target asks of the system for itself.
#![allow(unsafe_code)] // a limit and a signal's disposition

/// No file of this process becomes larger than 16 MiB, which the tests' guest memory is far below; a write past that
/// fails. To be called again and again: libFuzzer comes between with a handler of its own.
pub(crate) fn limit_files() {
    let limit = libc::rlimit { rlim_cur: 16 << 20, rlim_max: 16 << 20 };
    // SAFETY: a structure of plain numbers, and a signal that is ignored instead of ending the process.
    unsafe {
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
