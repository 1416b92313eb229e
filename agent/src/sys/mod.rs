//! Everything of the agent that needs `unsafe`: system calls that no crate of ours wraps safely.
#![allow(unsafe_code)]

pub mod capabilities;
pub mod fork;
pub mod guards;
pub mod ioctl;
pub mod mount;
pub mod scheduling;
pub mod socket;
pub mod watch;

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Takes over a descriptor that this process was started with, marked close-on-exec.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn adopt(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_SETFD takes an int and touches no memory of ours.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller names a descriptor that nothing else in this process owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A pidfd of a living (or unreaped) process.
///
/// # Errors
/// `ESRCH` if there is none.
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: two integers in, a descriptor out.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made it for us; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Marks every descriptor from `first` on close-on-exec.
///
/// # Errors
/// As `close_range(2)`.
pub fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: only flags of descriptors change.
    let outcome = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(outcome).map(drop)
}

/// Sets the execution domain of this process.
///
/// # Errors
/// As `personality(2)`.
pub fn personality(domain: u64) -> nix::Result<()> {
    // SAFETY: an integer in, an integer out.
    Errno::result(unsafe { libc::personality(domain) }).map(drop)
}

/// Sets all three user ids and all three group ids of this single-threaded process, and nothing but them:
/// capabilities of a user other than root are kept for `set_capabilities` to narrow.
///
/// # Errors
/// As `setresgid(2)` and `setresuid(2)`.
pub fn set_ids(uid: u32, gid: u32) -> nix::Result<()> {
    nix::sys::prctl::set_keepcaps(true)?;
    // SAFETY: integers only; the raw calls act on this thread, which is the process's only one.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    nix::sys::prctl::set_keepcaps(false)
}

/// Sets one resource limit of this process, by its number.
///
/// # Errors
/// As `setrlimit(2)`.
pub fn set_limit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call, which only reads it.
    Errno::result(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

/// Replaces this process's standard streams.
///
/// # Errors
/// As `dup2(2)`.
pub fn set_stdio(streams: [BorrowedFd<'_>; 3]) -> nix::Result<()> {
    for (target, stream) in streams.iter().enumerate() {
        // SAFETY: dup2 onto 0, 1 and 2, which no Rust object owns.
        Errno::result(unsafe { libc::dup2(stream.as_raw_fd(), target as RawFd) })?;
    }
    Ok(())
}

/// Has the kernel hand out `length` bytes of memory, which it fills with zeros, and takes them back.
///
/// # Errors
/// As `mmap(2)`; part of the memory may have been handed out then.
pub fn use_memory_once(length: usize) -> nix::Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
    );
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: exactly what has just been mapped, of which nobody else knows.
    Errno::result(unsafe { libc::munmap(address, length) }).map(drop)
}

/// A child that has ended, as `waitpid(2)` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Which.
    pub pid: i32,
    /// How, undecoded: nix's decoder loses processes killed by a real-time signal.
    pub status: i32,
}

/// Reaps one child, if one has ended.
pub fn reap() -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        pid if pid > 0 => Some(Ended { pid, status }),
        // None has ended, or there are none.
        _ => None,
    }
}

/// Sends any signal of Linux, real-time ones and 0 included.
///
/// # Errors
/// As `kill(2)`.
pub fn kill(pid: i32, signal: i32) -> nix::Result<()> {
    // SAFETY: integers only.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}
