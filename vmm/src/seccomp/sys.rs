//! SIGSYS: what the kernel says of a call that a filter caught, and the end of the process.
#![allow(unsafe_code)] // a signal handler

use std::io;

use vmm_sys_util::signal::register_signal_handler;

/// `si_code` of a SIGSYS that a seccomp filter raised (asm-generic/siginfo.h).
const SYS_SECCOMP: i32 = 1;

/// The beginning of siginfo_t for SIGSYS (asm-generic/siginfo.h), which the libc crate leaves out.
#[repr(C)]
struct Caught {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    address: *const libc::c_void,
    call: libc::c_int,
    arch: libc::c_uint,
}

/// Has SIGSYS reported by [`super::report`], on the thread that raised it, and end the process.
pub(super) fn handle_traps() -> io::Result<()> {
    register_signal_handler(libc::SIGSYS, on_sigsys).map_err(io::Error::from)
}

extern "C" fn on_sigsys(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the handler was installed with SA_SIGINFO, so the kernel passes a siginfo_t, which is larger than
    // `Caught`, and for this signal begins as it does.
    let caught = unsafe { &*info.cast::<Caught>() };
    let status = if caught.code == SYS_SECCOMP {
        i32::from(super::report(caught.call))
    } else {
        // Somebody sent the signal.
        crate::terminal::restore();
        128 + signal
    };
    // SAFETY: _exit has no preconditions and may be called in a signal handler.
    unsafe { libc::_exit(status) }
}
