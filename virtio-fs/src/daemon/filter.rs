//! The system calls of the daemon: those that requests become, and those of threads and of vhost-user.
//!
//! Any other ends the process. Hazard: a filter compares numbers and arguments, not what a pointer points to.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// What requests become.
const REQUESTS: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_umask,
    libc::SYS_fchdir,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capget,
    libc::SYS_capset,
];

/// Memory, threads, events and vhost-user.
const REST: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_accept4,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// A call, an argument's place, and what it may be.
const ONLY: &[(i64, u8, &[u32])] = &[
    // No memory is code.
    (libc::SYS_mmap, 2, &[0, 1, 3]),
    (libc::SYS_mprotect, 2, &[0, 1, 3]),
    // A thread, not a process: what libc's pthread_create asks for.
    (libc::SYS_clone, 0, &[0x3d_0f00]),
    (libc::SYS_unshare, 0, &[libc::CLONE_FS.cast_unsigned()]),
    (libc::SYS_prctl, 0, &[libc::PR_SET_NAME.cast_unsigned()]),
    // Whether what the VMM hands over to be asked on is a channel.
    (libc::SYS_getsockopt, 2, &[libc::SO_DOMAIN.cast_unsigned(), libc::SO_TYPE.cast_unsigned()]),
];

/// What the process that waits for the daemon needs.
const WAITING: &[i64] = &[
    libc::SYS_rt_sigtimedwait,
    libc::SYS_kill,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_unlinkat,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit_group,
];

/// Confines the process and all threads it will have.
///
/// # Errors
/// The host does not confine threads.
pub(super) fn confine() -> io::Result<()> {
    // Its flags are behind a pointer; told that there is no such call, libc makes threads by clone.
    let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    apply(no_clone3, SeccompAction::Allow, absent)?;
    let any = REQUESTS.iter().chain(REST).chain(&[libc::SYS_clone3]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = any.map(|call| (*call, Vec::new())).collect();
    for (call, argument, values) in ONLY {
        let rule = |value: &u32| {
            let (len, eq) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
            SeccompRule::new(vec![SeccompCondition::new(*argument, len, eq, u64::from(*value))?])
        };
        let list: Result<_, _> = values.iter().map(rule).collect();
        rules.insert(*call, list.map_err(io::Error::other)?);
    }
    apply(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// Confines the process to waiting for the daemon.
///
/// # Errors
/// The host does not confine threads.
pub(super) fn confine_to_waiting() -> io::Result<()> {
    let rules = WAITING.iter().map(|call| (*call, Vec::new())).collect();
    apply(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> io::Result<()> {
    let filter = SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64);
    let program: BpfProgram = filter.and_then(TryInto::try_into).map_err(io::Error::other)?;
    apply_filter(&program).map_err(io::Error::other)
}
