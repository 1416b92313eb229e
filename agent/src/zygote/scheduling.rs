//! `process.scheduler` and `process.ioPriority`.

use bulkhead_agent_protocol::message::FailureKind;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process, Scheduler,
};

use crate::failure::Failure;
use crate::sys::scheduling::{Scheduling, schedule, set_io_priority};

/// Takes on what `process` says of the two, if anything.
///
/// # Errors
/// `Other`, `InvalidArgument`.
pub fn assume(process: &Process) -> Result<(), Failure> {
    if let Some(priority) = process.io_priority() {
        let level = u32::try_from(priority.priority())
            .map_err(|_| Failure::invalid(format!("process.ioPriority.priority {}", priority.priority())))?;
        set_io_priority(io_class(priority), level)
            .map_err(|errno| Failure::os(FailureKind::Other, "set I/O priority", &errno))?;
    }
    if let Some(scheduler) = process.scheduler() {
        schedule(scheduling(scheduler))
            .map_err(|errno| Failure::os(FailureKind::Other, "set scheduler", &errno))?;
    }
    Ok(())
}

/// As in the kernel's `ioprio.h`.
fn io_class(priority: &LinuxIOPriority) -> u32 {
    match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    }
}

/// As in the kernel's `sched.h`.
fn scheduling(scheduler: &Scheduler) -> Scheduling {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    Scheduling {
        size: 0,
        policy,
        flags,
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default().unsigned_abs(),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    }
}
