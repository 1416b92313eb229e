//! Kill, update, pids, resize: requests that are one look and one act.

use std::sync::Arc;

use bulkhead_agent_protocol::message::{FailureKind, Kill, ProcessInfo, ResizePty, Update};
use oci_spec::runtime::LinuxResources;

use super::{Exec, State, devices, resources};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::{lock, sys};

/// Largest signal number of Linux.
const MAX_SIGNAL: u32 = 64;

/// How often the members of a cgroup are signalled anew while new ones appear. A container that forks
/// faster than this can only be killed, which the kernel does for all at once.
const SIGNAL_ROUNDS: usize = 5;

/// Sends a signal to one process or to all of a container.
///
/// # Errors
/// `NotFound` in runc's words for a process that has ended, `InvalidArgument` for a bad number.
pub fn kill(agent: &Agent, request: &Kill) -> Result<(), Failure> {
    let signal = i32::try_from(request.signal)
        .ok()
        .filter(|_| request.signal <= MAX_SIGNAL);
    let signal = signal.ok_or_else(|| Failure::invalid(format!("no such signal: {}", request.signal)))?;
    let mut registry = lock(&agent.registry);
    let container = registry.get(&request.container_id)?;
    if request.all && request.exec_id.is_empty() {
        if container.init.exit.is_some() && !container.has_live_execs() {
            return Err(Failure::not_found("process already finished"));
        }
        if signal == libc::SIGKILL {
            return container.cgroup.kill();
        }
        if container.state == State::Paused {
            return signal_all(&container.cgroup, signal);
        }
        // As runc does: none ends for the sake of another before each has the signal.
        container.cgroup.set_frozen(true)?;
        let signalled = signal_all(&container.cgroup, signal);
        container.cgroup.set_frozen(false)?;
        return signalled;
    }
    container.process(&request.exec_id)?.kill(signal)?;
    if signal == libc::SIGKILL && container.state == State::Paused && request.exec_id.is_empty() {
        // The kernel kills a frozen process, but what remains of the container should not stay frozen.
        container.cgroup.set_frozen(false)?;
    }
    Ok(())
}

fn signal_all(cgroup: &super::cgroup::Cgroup, signal: i32) -> Result<(), Failure> {
    let mut signalled = std::collections::BTreeSet::new();
    for _ in 0..SIGNAL_ROUNDS {
        let fresh: Vec<i32> = cgroup
            .processes()?
            .into_iter()
            .filter(|pid| signalled.insert(*pid))
            .collect();
        if fresh.is_empty() {
            break;
        }
        for pid in fresh {
            // It may have ended since it was listed.
            let _ = sys::kill(pid, signal);
        }
    }
    Ok(())
}

/// Changes limits of a container that has not stopped.
///
/// # Errors
/// `InvalidArgument`, `Unsupported`, `Cgroup`; settings before the one that failed are in force.
pub async fn update(agent: &Arc<Agent>, request: &Update) -> Result<(), Failure> {
    let resources: LinuxResources = serde_json::from_slice(&request.resources)
        .map_err(|error| Failure::invalid(format!("resources: {error}")))?;
    let settings = resources::settings(&resources)?;
    let (cgroup, disk_rules) = {
        let mut registry = lock(&agent.registry);
        let container = registry.get(&request.container_id)?;
        if container.state == State::Stopped {
            return Err(Failure::state(format!(
                "container {} is stopped",
                request.container_id
            )));
        }
        (container.cgroup.clone(), container.disk_rules.clone())
    };
    let filter = match resources.devices().as_deref() {
        None | Some([]) => None,
        Some(rules) => Some(devices::filter(&[rules, &disk_rules].concat())?.into_program()),
    };
    // A lower memory limit makes the kernel reclaim before the write returns.
    let written = tokio::task::spawn_blocking(move || {
        cgroup.apply(&settings)?;
        filter.map_or(Ok(()), |filter| cgroup.filter_devices(&filter))
    });
    written
        .await
        .map_err(|error| Failure::new(FailureKind::Other, "update", error.to_string()))?
}

/// The processes of a container, init first.
///
/// # Errors
/// `NotFound`, `Cgroup`.
pub fn processes(agent: &Agent, id: &str) -> Result<Vec<ProcessInfo>, Failure> {
    let mut registry = lock(&agent.registry);
    let container = registry.get(id)?;
    let init = container.init.pid;
    let mut pids = container.cgroup.processes()?;
    pids.sort_by_key(|pid| (*pid != init, *pid));
    let info = |pid| ProcessInfo {
        pid: u32::try_from(pid).unwrap_or_default(),
        exec_id: registry
            .name_of(pid)
            .filter(|name| name.container_id == id)
            .map(|name| name.exec_id.clone()),
    };
    Ok(pids.into_iter().map(info).collect())
}

/// Sets a terminal's size, or remembers it for a process that is being made.
///
/// # Errors
/// `NotFound`, `Pty`.
pub fn resize(agent: &Agent, request: &ResizePty) -> Result<(), Failure> {
    let mut registry = lock(&agent.registry);
    let container = registry.get(&request.container_id)?;
    if let Some(Exec::Starting(size)) = container.execs.get_mut(&request.exec_id) {
        *size = Some((request.width, request.height));
        return Ok(());
    }
    container
        .process(&request.exec_id)?
        .resize(request.width, request.height)
}
