//! Start, pause, resume, delete.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_agent_protocol::message::{Failed, FailureKind};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::{Exec, State};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::lock;
use crate::zygote::gate::OPEN;
use crate::zygote::job::MAX_REPORT;

/// How long a killed init may take to be reaped. It is immediate but for uninterruptible waits.
const REAP: Duration = Duration::from_secs(5);

/// Releases a created init and waits until it has become its program. Returns its pid.
///
/// # Errors
/// `FailedPrecondition` unless created; why the kernel refused the program, in which case init ends.
pub async fn start(agent: &Arc<Agent>, id: &str) -> Result<i32, Failure> {
    let (pid, gate) = {
        let mut registry = lock(&agent.registry);
        let container = registry.get(id)?;
        let gate = match (container.state, container.gate.take()) {
            (State::Created, Some(gate)) => gate,
            (state, _) => {
                let state = format!("{state:?}").to_lowercase();
                return Err(Failure::state(format!(
                    "cannot start a container in the {state} state"
                )));
            }
        };
        container.state = State::Running;
        // An exit may come before the reply is on its way, and must not overtake it.
        container.init.unannounced = true;
        if container.surroundings.follows_host {
            agent.followed.notify_one();
        }
        (container.init.pid, gate)
    };
    let failed = |error: std::io::Error| Failure::os(FailureKind::Other, "start init", &error);
    let gate = StdUnixStream::from(gate);
    gate.set_nonblocking(true).map_err(failed)?;
    let mut gate = UnixStream::from_std(gate).map_err(failed)?;
    gate.write_all(OPEN).await.map_err(failed)?;
    let mut report = Vec::new();
    gate.take(MAX_REPORT as u64)
        .read_to_end(&mut report)
        .await
        .map_err(failed)?;
    if report.is_empty() {
        return Ok(pid);
    }
    let refused = Failed::decode(&report[..]);
    Err(refused.map_or_else(|error| failed(std::io::Error::other(error)), Failure::from))
}

/// Freezes or thaws a container.
///
/// # Errors
/// `FailedPrecondition` in the wrong state, `Cgroup`.
pub async fn freeze(agent: &Arc<Agent>, id: &str, frozen: bool) -> Result<(), Failure> {
    let (from, to) = if frozen {
        (State::Running, State::Paused)
    } else {
        (State::Paused, State::Running)
    };
    let cgroup = {
        let mut registry = lock(&agent.registry);
        let container = registry.get(id)?;
        if container.state != from {
            let word = if frozen { "running" } else { "paused" };
            return Err(Failure::state(format!("container {id} is not {word}")));
        }
        // At once, so that an exec that comes meanwhile is refused instead of frozen half-way.
        container.state = to;
        container.cgroup.clone()
    };
    let outcome = cgroup.freeze(frozen).await;
    if outcome.is_err()
        && let Ok(container) = lock(&agent.registry).get(id)
        && container.state == to
    {
        container.state = from;
    }
    outcome
}

/// Forgets an exec that has ended, or removes a container that is created or stopped.
///
/// # Errors
/// `FailedPrecondition` while it runs, `NotFound`, `Cgroup`.
pub async fn delete(agent: &Arc<Agent>, id: &str, exec_id: &str) -> Result<(), Failure> {
    if !exec_id.is_empty() {
        return delete_exec(agent, id, exec_id);
    }
    {
        let mut registry = lock(&agent.registry);
        let container = registry.get(id)?;
        match container.state {
            State::Created => container.init.kill(libc::SIGKILL)?,
            State::Stopped => {}
            State::Running | State::Paused => return Err(Failure::state("cannot delete a running process")),
        }
    }
    wait_until_stopped(agent, id).await?;
    let container = lock(&agent.registry).take(id)?;
    let mut removed = container.cgroup.remove().await;
    if removed.is_ok() {
        removed = agent.disks.detach(id).await;
    }
    if let Err(failure) = removed {
        lock(&agent.registry).put_back(id, container);
        return Err(failure);
    }
    // Ends the streams that descendants of its processes may have held open.
    drop(container);
    agent.forget_shared_files().await;
    lock(&agent.registry).release(id);
    Ok(())
}

fn delete_exec(agent: &Agent, id: &str, exec_id: &str) -> Result<(), Failure> {
    let mut registry = lock(&agent.registry);
    let container = registry.get(id)?;
    match container.execs.get(exec_id) {
        None => Err(Failure::not_found(format!("process {exec_id} not found"))),
        Some(Exec::Process(process)) if process.exit.is_some() => {
            container.execs.remove(exec_id);
            Ok(())
        }
        Some(_) => Err(Failure::state("cannot delete a running process")),
    }
}

async fn wait_until_stopped(agent: &Agent, id: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + REAP;
    loop {
        let reaped = agent.reaped.notified();
        tokio::pin!(reaped);
        // Registers before looking, so that a reaping in between is not missed.
        reaped.as_mut().enable();
        if lock(&agent.registry).get(id)?.state == State::Stopped {
            return Ok(());
        }
        timeout_at(deadline, reaped)
            .await
            .map_err(|_| Failure::state(format!("container {id} does not die")))?;
    }
}
