//! What a process may do: limits, groups, ids, capabilities, filter.

use bulkhead_agent_protocol::message::FailureKind;
use nix::sys::stat::Mode;
use nix::unistd::Gid;
use oci_spec::runtime::{LinuxSeccomp, Process};

use super::capabilities::Sets;
use super::filter;
use crate::failure::Failure;
use crate::sys;

/// Takes on the limits, umask, groups, ids, capabilities and filter of `process`.
///
/// # Errors
/// `ResourceLimit`, `UserSetup`, or `Other` for the filter.
pub fn assume(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<(), Failure> {
    for limit in process.rlimits().iter().flatten() {
        let (typ, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        // The type's numbers are the kernel's.
        sys::set_limit(typ as u32, soft, hard).map_err(|errno| {
            Failure::os(
                FailureKind::ResourceLimit,
                format!("set {typ:?} to {soft}:{hard}"),
                &errno,
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
    } else if let Some(seccomp) = seccomp {
        // Without no_new_privs only CAP_SYS_ADMIN may set a filter: now, or never.
        filter::install(seccomp)?;
    }
    become_user(process)?;
    match seccomp {
        Some(seccomp) if no_new_privileges => filter::install(seccomp),
        _ => Ok(()),
    }
}

fn become_user(process: &Process) -> Result<(), Failure> {
    let user = process.user();
    let failed = |stage: String, errno| Failure::os(FailureKind::UserSetup, stage, &errno);
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let capabilities = Sets::of(process.capabilities().as_ref());
    capabilities.bound()?;
    nix::unistd::setgroups(&groups).map_err(|errno| failed(format!("set groups {groups:?}"), errno))?;
    sys::set_ids(user.uid(), user.gid())
        .map_err(|errno| failed(format!("set user {}:{}", user.uid(), user.gid()), errno))?;
    capabilities.assume()
}
