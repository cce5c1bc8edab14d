//! What a fuzz target asks of the system for itself.
#![allow(unsafe_code)] // a limit and a signal's disposition

/// No file of this process becomes larger than 1 MiB; a write past that fails.
pub(crate) fn limit_files() {
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: a structure of plain numbers, and a signal that is ignored instead of ending the process.
    unsafe {
        libc::setrlimit(libc::RLIMIT_FSIZE, &limit);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
