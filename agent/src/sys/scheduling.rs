//! Scheduling of this process.

use nix::errno::Errno;

/// `IOPRIO_WHO_PROCESS`, and where the class is in a priority.
const WHO_PROCESS: libc::c_int = 1;
const CLASS_SHIFT: u32 = 13;

/// First version of `struct sched_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scheduling {
    /// Set by [`schedule`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Of the policies that share.
    pub nice: i32,
    /// Of the policies that do not.
    pub priority: u32,
    /// Of `SCHED_DEADLINE`, in nanoseconds, as are the next two.
    pub runtime: u64,
    /// See `runtime`.
    pub deadline: u64,
    /// See `runtime`.
    pub period: u64,
}

/// Has this process scheduled so.
///
/// # Errors
/// As `sched_setattr(2)`.
pub fn schedule(scheduling: Scheduling) -> nix::Result<()> {
    let attributes = Scheduling {
        size: size_of::<Scheduling>() as u32,
        ..scheduling
    };
    // SAFETY: `attributes` outlives the call and states its own size.
    Errno::result(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// Gives the I/O of this process a class (1 real time, 2 best effort, 3 idle) and a level in it (0 to 7).
///
/// # Errors
/// As `ioprio_set(2)`.
pub fn set_io_priority(class: u32, level: u32) -> nix::Result<()> {
    let priority = class << CLASS_SHIFT | level;
    // SAFETY: integers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) }).map(drop)
}
