//! Exec: a further process in a container.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bulkhead_agent_protocol::message::{Exec as Request, FailureKind};

use super::process::Process;
use super::registry::Registry;
use super::spec::exec_process;
use super::{Exec, State};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::lock;
use crate::stdio::Streams;
use crate::sys;
use crate::zygote::Spawned;
use crate::zygote::job::{ExecJob, Work};

/// Longest exec id: the host's limit for ids.
const MAX_EXEC_ID: usize = 76;

/// Starts a process. The caller must send its reply before it drops what is returned.
///
/// # Errors
/// Typed; nothing is left of the process, and its id is free.
pub async fn exec(agent: &Arc<Agent>, request: Request) -> Result<Spawned, Failure> {
    let (id, exec_id) = (request.container_id.as_str(), request.exec_id.as_str());
    let stdio = request.stdio.clone().unwrap_or_default();
    let process = exec_process(&request.process, stdio.terminal)?;
    let uid = process.user().uid();
    let job = ExecJob {
        process: request.process,
        terminal: stdio.terminal,
        ..ExecJob::default()
    };
    let (init, cgroup, job) = reserve(agent, id, exec_id, job)?;
    let outcome = spawn(agent, &stdio, uid, &[init.as_fd(), cgroup.as_fd()], job).await;
    let mut registry = lock(&agent.registry);
    let outcome =
        outcome.and_then(
            |(process, spawned)| match register(&mut registry, id, exec_id, process) {
                Ok(()) => Ok(spawned),
                Err(failure) => {
                    spawned.abandon();
                    Err(failure)
                }
            },
        );
    if outcome.is_err()
        && let Ok(container) = registry.get(id)
    {
        container.execs.remove(exec_id);
    }
    outcome
}

/// Makes the process known while its worker still is its parent.
fn register(registry: &mut Registry, id: &str, exec_id: &str, process: Process) -> Result<(), Failure> {
    let container = registry.get(id)?;
    let size = match container.execs.get(exec_id) {
        Some(Exec::Starting(size)) if container.state != State::Stopped => *size,
        // The container has ended meanwhile, and a new one may have its id.
        _ => {
            return Err(Failure::state(format!(
                "container {id} init process is not running"
            )));
        }
    };
    if let Some((width, height)) = size {
        process.resize(width, height)?;
    }
    registry.learn(id, exec_id, &process);
    registry
        .get(id)?
        .execs
        .insert(exec_id.to_owned(), Exec::Process(process));
    Ok(())
}

/// Checks that the container takes processes, takes the id, and gathers what the worker needs.
fn reserve(
    agent: &Agent,
    id: &str,
    exec_id: &str,
    job: ExecJob,
) -> Result<(OwnedFd, File, ExecJob), Failure> {
    if exec_id.is_empty() || exec_id.len() > MAX_EXEC_ID {
        return Err(Failure::invalid(format!(
            "exec id {exec_id:?} is empty or too long"
        )));
    }
    let mut registry = lock(&agent.registry);
    let container = registry.get(id)?;
    match container.state {
        State::Created | State::Running => {}
        State::Paused => return Err(Failure::state("cannot exec in a paused state")),
        State::Stopped => {
            return Err(Failure::state(format!(
                "container {id} init process is not running"
            )));
        }
    }
    if container.execs.contains_key(exec_id) {
        let message = format!("exec {exec_id} already exists");
        return Err(Failure::new(FailureKind::AlreadyExists, "request", message));
    }
    let init = sys::pidfd_open(container.init.pid)
        .map_err(|errno| Failure::os(FailureKind::Other, "open the container's init", &errno))?;
    let cgroup = container.cgroup.open_for_process(container.init.pid)?;
    let job = ExecJob {
        namespaces: container.surroundings.namespaces,
        seccomp: container.surroundings.seccomp.clone(),
        personality: container.surroundings.personality,
        ..job
    };
    container.execs.insert(exec_id.to_owned(), Exec::Starting(None));
    Ok((init, cgroup, job))
}

async fn spawn(
    agent: &Agent,
    stdio: &bulkhead_agent_protocol::message::Stdio,
    uid: u32,
    container: &[BorrowedFd<'_>],
    job: ExecJob,
) -> Result<(Process, Spawned), Failure> {
    let (streams, ends) = Streams::open(&agent.link(), stdio, uid)?;
    let mut fds = container.to_vec();
    fds.extend(ends.iter().map(AsFd::as_fd));
    let spawned = agent.zygote.run(Work::Exec(job), &fds).await?;
    drop(ends);
    Process::connect(agent, streams, spawned)
}
