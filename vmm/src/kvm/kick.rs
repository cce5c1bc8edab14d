//! Getting a vCPU out of the guest from another thread.
//!
//! The kick is a real-time signal whose handler, on the vCPU's own thread, sets `immediate_exit` in the shared
//! kvm_run page: a kick that lands just before KVM_RUN makes that KVM_RUN return at once, so none is lost.

use std::cell::Cell;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{Ordering, compiler_fence};
use std::thread::JoinHandle;

use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    // Const-initialised and without a destructor: reading it in a signal handler allocates nothing.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: `bind` stored a pointer into the kvm_run mapping of the vCPU this thread owns, and `unbind` removes
        // it before that goes.
        unsafe { flag.write_volatile(1) };
    }
}

/// Makes this thread the one whose kicks reach `immediate_exit`.
pub(super) fn bind(immediate_exit: &mut u8) {
    IMMEDIATE_EXIT.set(immediate_exit);
}

/// Has this thread's kicks reach nothing any more. To be called before the vCPU it is bound to goes: a kick may still
/// come, from a thread that saw this one run.
pub(super) fn unbind() {
    IMMEDIATE_EXIT.set(ptr::null_mut());
    // The handler runs on this very thread: only the compiler could move the store behind the unmapping.
    compiler_fence(Ordering::SeqCst);
}

/// Installs the handler, once a process.
pub(crate) fn install_kick_handler() -> Result<(), super::KvmError> {
    register_signal_handler(SIGRTMIN(), on_kick)
        .map_err(super::KvmError::call("install the vCPU's signal handler"))
}

/// Kicks one thread.
#[derive(Clone, Copy)]
pub(crate) struct Kicker(libc::pthread_t);

impl Kicker {
    /// A kicker of a thread that has been started.
    pub(crate) fn of<T>(thread: &JoinHandle<T>) -> Self {
        Self(thread.as_pthread_t())
    }

    /// A kicker of the calling thread.
    pub(crate) fn this_thread() -> Self {
        // SAFETY: pthread_self has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Sends the signal. The thread must not have been joined yet.
    pub(crate) fn kick(&self) {
        // SAFETY: the caller holds the thread's join handle, so the id is still valid.
        unsafe { libc::pthread_kill(self.0, SIGRTMIN()) };
    }
}
