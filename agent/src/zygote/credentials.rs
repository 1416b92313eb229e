//! What a process may do: limits, groups, ids, capabilities, filter. Used for execs; for an init the
//! library does the same in the same order.

use bulkhead_agent_protocol::message::FailureKind;
use libcontainer::capabilities;
use libcontainer::syscall::Syscall;
use libcontainer::syscall::syscall::create_syscall;
use nix::sys::stat::Mode;
use nix::unistd::Gid;
use oci_spec::runtime::{LinuxSeccomp, Process};

use crate::failure::Failure;
use crate::sys;

/// Takes on the limits, umask, groups, ids, capabilities and filter of `process`.
///
/// # Errors
/// `ResourceLimit`, `UserSetup`, or `Other` for the filter.
pub fn assume(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<(), Failure> {
    let system = create_syscall();
    for limit in process.rlimits().iter().flatten() {
        system.set_rlimit(limit).map_err(|error| {
            let stage = format!("set {:?} to {}:{}", limit.typ(), limit.soft(), limit.hard());
            Failure::new(
                FailureKind::ResourceLimit,
                stage.clone(),
                format!("{stage}: {error}"),
            )
        })?;
    }
    if let Some(umask) = process.user().umask() {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    }
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        let refused = |errno| Failure::os(FailureKind::UserSetup, "set no_new_privs", &errno);
        nix::sys::prctl::set_no_new_privs().map_err(refused)?;
    } else if let Some(filter) = seccomp {
        // Without no_new_privs only CAP_SYS_ADMIN may set a filter: now, or never.
        install(filter)?;
    }
    become_user(process, system.as_ref())?;
    match seccomp {
        Some(filter) if no_new_privileges => install(filter),
        _ => Ok(()),
    }
}

fn become_user(process: &Process, system: &dyn Syscall) -> Result<(), Failure> {
    let user = process.user();
    let failed =
        |stage: String| move |errno: nix::errno::Errno| Failure::os(FailureKind::UserSetup, stage, &errno);
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    nix::unistd::setgroups(&groups).map_err(failed(format!("set groups {groups:?}")))?;
    sys::set_ids(user.uid(), user.gid()).map_err(failed(format!(
        "set user {}:{}",
        user.uid(),
        user.gid()
    )))?;
    let capabilities = process
        .capabilities()
        .as_ref()
        .ok_or_else(|| Failure::invalid("process.capabilities is missing"))?;
    capabilities::reset_effective(system)
        .and_then(|()| capabilities::drop_privileges(capabilities, system))
        .map_err(|error| {
            Failure::new(
                FailureKind::UserSetup,
                "set capabilities",
                format!("set capabilities: {error}"),
            )
        })
}

fn install(filter: &LinuxSeccomp) -> Result<(), Failure> {
    libcontainer::seccomp::initialize_seccomp(filter)
        .map(drop)
        .map_err(|error| {
            Failure::new(
                FailureKind::Other,
                "set seccomp filter",
                format!("set seccomp filter: {error}"),
            )
        })
}
