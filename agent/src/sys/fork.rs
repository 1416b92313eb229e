//! New processes. Only called from processes that have one thread.

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::{ForkResult, Pid};

/// The child is born in the cgroup of `CloneArgs::cgroup`. The libc crate's constant has overflowed.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Arguments of `clone3(2)`, its first version with a cgroup.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Ends this process and runs or flushes nothing: a forked one has only a copy of that, and what the C library
/// has noted to be run is lost with [`super::guards::renew`].
pub fn end(code: i32) -> ! {
    // SAFETY: an integer; it does not return.
    unsafe { libc::_exit(code) }
}

/// Runs `child` in a new process, which ends with the code that `child` returns.
///
/// # Errors
/// As `fork(2)`.
pub fn fork(child: impl FnOnce() -> i32) -> nix::Result<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => end(child()),
    }
}

/// Runs `child` in a new process that is born in the cgroup whose directory is `cgroup`, which is far
/// cheaper than moving it there: a move waits for a grace period of the kernel. `namespaces` are made for it.
///
/// # Errors
/// As `clone3(2)`; `EBUSY` if the cgroup hands controllers to children of its own.
pub fn fork_into_cgroup(
    cgroup: impl AsFd,
    namespaces: CloneFlags,
    child: impl FnOnce() -> i32,
) -> nix::Result<Pid> {
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP | u64::from(namespaces.bits() as u32),
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_fd().as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` outlives the call and has the size we state; without CLONE_VM the child gets a
    // copy of everything, as with fork, and this process has one thread.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) } {
        0 => end(child()),
        outcome => Errno::result(outcome).map(|pid| Pid::from_raw(pid as i32)),
    }
}

/// Lets the kernel reap this process's children by itself, or (`false`) gives that back to us.
///
/// # Errors
/// As `sigaction(2)`.
pub fn reap_automatically(automatic: bool) -> nix::Result<()> {
    let handler = if automatic {
        SigHandler::SigIgn
    } else {
        SigHandler::SigDfl
    };
    // SAFETY: neither disposition runs code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, handler) }.map(drop)
}

/// Gives every signal its default disposition, except SIGKILL and SIGSTOP, which have no other, and
/// unblocks all.
///
/// # Errors
/// As `sigprocmask(2)`.
pub fn reset_signals() -> nix::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default disposition runs no code of ours. Numbers that may not be changed
        // (SIGKILL, SIGSTOP, libc's own) answer EINVAL, which is what we want for them.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    nix::sys::signal::sigprocmask(
        nix::sys::signal::SigmaskHow::SIG_SETMASK,
        Some(&nix::sys::signal::SigSet::empty()),
        None,
    )
}
