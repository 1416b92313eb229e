//! The process of a container or an exec: checked, and stripped of what only means something on the host.

use std::collections::HashSet;

use oci_spec::runtime::{LinuxSchedulerPolicy, PosixRlimit, Process, Scheduler, User};

use crate::error::{PlanError, invalid, unsupported};
use crate::path::absolute;

/// Most entries of `args` and of `env`. The kernel bounds their bytes (128 KiB each, 6 MiB together);
/// this bounds what the checks cost.
const MAX_STRINGS: usize = 65_536;
/// Most `additionalGids`: the kernel's NGROUPS_MAX.
const MAX_GROUPS: usize = 65_536;
/// A terminal's size is two u16 in `struct winsize`.
const MAX_CONSOLE_SIDE: u64 = u16::MAX as u64;

/// A process, ready for the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessPlan {
    /// What the agent is given.
    pub process: Process,
    /// What was left out, for the log.
    pub warnings: Vec<String>,
}

/// Checks the process of an exec and translates it for the guest.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn plan_process(process: &Process) -> Result<ProcessPlan, PlanError> {
    arguments(process)?;
    environment(process)?;
    absolute("process.cwd", process.cwd())?;
    user(process.user())?;
    terminal(process)?;
    rlimits(process.rlimits().as_deref().unwrap_or_default())?;
    scheduling(process)?;
    for_guest(process)
}

/// [`plan_process`], for the check alone.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn validate_process(process: &Process) -> Result<(), PlanError> {
    plan_process(process).map(|_| ())
}

/// Gives the process of an exec what it does not say of itself, as the container's own process has it: capabilities,
/// I/O priority and scheduler; limits not. runc does so, and clients rely on it.
pub fn inherit(process: &mut Process, init: &Process) {
    if process.capabilities().is_none() {
        process.set_capabilities(init.capabilities().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*init.io_priority());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(init.scheduler().clone());
    }
}

fn arguments(process: &Process) -> Result<(), PlanError> {
    if process
        .command_line()
        .as_deref()
        .is_some_and(|line| !line.is_empty())
    {
        let reason = "it is for Windows alone; use process.args";
        return Err(unsupported("process.commandLine", reason));
    }
    let args = process.args().as_deref().unwrap_or_default();
    if args.is_empty() {
        return Err(invalid("process.args", "is empty"));
    }
    strings("process.args", args)
}

fn environment(process: &Process) -> Result<(), PlanError> {
    let env = process.env().as_deref().unwrap_or_default();
    strings("process.env", env)?;
    for (n, entry) in env.iter().enumerate() {
        // A name may not be empty, its value may.
        if matches!(entry.find('='), None | Some(0)) {
            let reason = format!("{entry:?} is not NAME=VALUE");
            return Err(invalid(format!("process.env[{n}]"), reason));
        }
    }
    Ok(())
}

fn strings(field: &str, list: &[String]) -> Result<(), PlanError> {
    if list.len() > MAX_STRINGS {
        let reason = format!("{} entries, more than {MAX_STRINGS}", list.len());
        return Err(invalid(field, reason));
    }
    match list.iter().position(|text| text.contains('\0')) {
        Some(n) => Err(invalid(format!("{field}[{n}]"), "contains a NUL byte")),
        None => Ok(()),
    }
}

fn user(user: &User) -> Result<(), PlanError> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        let reason = format!("{} groups, more than {MAX_GROUPS}", groups.len());
        return Err(invalid("process.user.additionalGids", reason));
    }
    // (u32)-1 means "leave as it is" to setresuid and setgroups.
    for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
        if id == u32::MAX {
            return Err(invalid(format!("process.user.{field}"), "4294967295 is no id"));
        }
    }
    if let Some(n) = groups.iter().position(|gid| *gid == u32::MAX) {
        let field = format!("process.user.additionalGids[{n}]");
        return Err(invalid(field, "4294967295 is no id"));
    }
    match user.umask() {
        Some(umask) if umask > 0o777 => {
            let reason = format!("{umask:#o} is more than 0o777");
            Err(invalid("process.user.umask", reason))
        }
        _ => Ok(()),
    }
}

fn terminal(process: &Process) -> Result<(), PlanError> {
    match process.console_size() {
        Some(size) if size.height().max(size.width()) > MAX_CONSOLE_SIDE => {
            let reason = format!(
                "{}x{} has a side of more than {MAX_CONSOLE_SIDE}",
                size.width(),
                size.height()
            );
            Err(invalid("process.consoleSize", reason))
        }
        _ => Ok(()),
    }
}

fn rlimits(limits: &[PosixRlimit]) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    for (n, limit) in limits.iter().enumerate() {
        let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        let field = || format!("process.rlimits[{n}]");
        if !seen.insert(name.to_string()) {
            return Err(invalid(field(), format!("{name} is set twice")));
        }
        if soft > hard {
            let reason = format!("{name}: soft limit {soft} is above hard limit {hard}");
            return Err(invalid(field(), reason));
        }
    }
    Ok(())
}

fn scheduling(process: &Process) -> Result<(), PlanError> {
    if let Some(adj) = process
        .oom_score_adj()
        .filter(|adj| !(-1000..=1000).contains(adj))
    {
        let reason = format!("{adj} is not in -1000..=1000");
        return Err(invalid("process.oomScoreAdj", reason));
    }
    if let Some(priority) = process.io_priority().map(|io| io.priority())
        && !(0..=7).contains(&priority)
    {
        let reason = format!("{priority} is not in 0..=7");
        return Err(invalid("process.ioPriority.priority", reason));
    }
    if let Some(affinity) = process.exec_cpu_affinity()
        && (affinity.initial().is_some() || affinity.cpu_affinity_final().is_some())
    {
        let reason = "it names CPUs of the host, and the guest has its own";
        return Err(unsupported("process.execCPUAffinity", reason));
    }
    process.scheduler().as_ref().map_or(Ok(()), scheduler)
}

fn scheduler(scheduler: &Scheduler) -> Result<(), PlanError> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedIso, SchedRr};

    let policy = *scheduler.policy();
    let field = |name| format!("process.scheduler.{name}");
    if policy == SchedIso {
        return Err(unsupported(field("policy"), "Linux has no SCHED_ISO"));
    }
    if let Some(nice) = scheduler.nice().filter(|nice| !(-20..=19).contains(nice)) {
        return Err(invalid(field("nice"), format!("{nice} is not in -20..=19")));
    }
    let priority = scheduler.priority().unwrap_or(0);
    let range = if matches!(policy, SchedFifo | SchedRr) {
        1..=99
    } else {
        0..=0
    };
    if !range.contains(&priority) {
        let reason = format!("{priority} is not in {}..={}", range.start(), range.end());
        return Err(invalid(field("priority"), reason));
    }
    let deadline = [*scheduler.runtime(), *scheduler.deadline(), *scheduler.period()];
    if policy != SchedDeadline && deadline.iter().flatten().any(|ns| *ns != 0) {
        let reason = "runtime, deadline and period are for SCHED_DEADLINE alone";
        return Err(invalid("process.scheduler", reason));
    }
    Ok(())
}

/// Security labels name policy that is loaded in the host's kernel; the guest's kernel has none.
fn for_guest(process: &Process) -> Result<ProcessPlan, PlanError> {
    let mut guest = process.clone();
    let mut warnings = Vec::new();
    let labels = [
        ("apparmorProfile", process.apparmor_profile().as_deref()),
        ("selinuxLabel", process.selinux_label().as_deref()),
        ("user.username", process.user().username().as_deref()),
    ];
    for (name, label) in labels {
        if let Some(label) = label.filter(|label| !matches!(*label, "" | "unconfined")) {
            warnings.push(format!(
                "process.{name} {label:?} is ignored: it means nothing in the guest"
            ));
        }
    }
    guest.set_apparmor_profile(None);
    guest.set_selinux_label(None);
    guest.user_mut().set_username(None);
    Ok(ProcessPlan {
        process: guest,
        warnings,
    })
}
