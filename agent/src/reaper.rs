//! Reaps every child: processes of containers are told to the host, orphans are not.
//!
//! An exit is told when the process is reaped, whoever still holds its output. What must come first comes
//! first: the reply to the request that started it, the exits of a container's other processes before its
//! init's, and the counters and want of memory of the container before both.

use std::sync::Arc;

use bulkhead_agent_protocol::message::{Body, Exited};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::{Agent, fresh_stats, new_oom};
use crate::container::process::{Exit, Process};
use crate::container::{Container, Exec, State};
use crate::lock;
use crate::sys::{self, Ended};

/// Signal of a process killed for want of memory.
const KILLED: i32 = libc::SIGKILL;

/// Begins to listen for ends of children. Before the first child.
///
/// # Errors
/// As `sigaction(2)`.
pub fn listen() -> std::io::Result<Signal> {
    signal(SignalKind::child())
}

/// Reaps for ever. Returns only if the agent cannot go on.
pub async fn run(agent: Arc<Agent>, mut signals: Signal) -> String {
    loop {
        while let Some(ended) = sys::reap() {
            if ended.pid == agent.zygote.pid() {
                return "the process that sets up containers has ended".to_owned();
            }
            for event in note(&agent, ended) {
                if agent.events.send(event).await.is_err() {
                    return "the event queue is closed".to_owned();
                }
            }
            agent.reaped.notify_waiters();
        }
        if signals.recv().await.is_none() {
            return "signals are no longer delivered".to_owned();
        }
    }
}

/// The reply to the request that started a process is on its way: its exit may be told.
pub async fn announce(agent: &Agent, id: &str, exec_id: &str) {
    let events = {
        let mut registry = lock(&agent.registry);
        let Ok(container) = registry.get(id) else { return };
        let Some(process) = container.process_mut(exec_id) else {
            return;
        };
        process.unannounced = false;
        exits_to_tell(id, container)
    };
    for event in events {
        // The agent is ending if the queue is closed.
        let _ = agent.events.send(event).await;
    }
}

/// Notes an end; returns what is to be told now.
fn note(agent: &Agent, ended: Ended) -> Vec<Body> {
    let mut registry = lock(&agent.registry);
    let Some(name) = registry.forget(ended.pid) else {
        return Vec::new();
    };
    let Some(container) = registry.container_of(&name) else {
        return Vec::new();
    };
    let id = name.container_id.as_str();
    let mut events = Vec::new();
    if libc::WIFSIGNALED(ended.status) && libc::WTERMSIG(ended.status) == KILLED {
        events.extend(new_oom(id, container));
    }
    if let Some(process) = container.process_mut(&name.exec_id) {
        process.exit = Some(Exit::decode(ended.status));
    }
    if name.exec_id.is_empty() {
        container.state = State::Stopped;
        if !container.surroundings.private_pids {
            // What the kernel does for a pid namespace. If it fails, the exits of the others tell.
            let _ = container.cgroup.kill();
        }
    }
    events.extend(exits_to_tell(id, container));
    events
}

/// Exits that were noted and may be told now, init's last.
fn exits_to_tell(id: &str, container: &mut Container) -> Vec<Body> {
    let oom_killed = container.oom_kills > 0;
    let mut events = Vec::new();
    for (exec_id, exec) in &mut container.execs {
        if let Exec::Process(process) = exec {
            events.extend(exit_to_tell(id, exec_id, process, oom_killed));
        }
    }
    let waits_for_others = container
        .execs
        .values()
        .any(|exec| matches!(exec, Exec::Process(process) if !process.told));
    if !waits_for_others && let Some(exit) = exit_to_tell(id, "", &mut container.init, oom_killed) {
        events.extend(fresh_stats(id, container).map(Body::Stats));
        events.push(exit);
    }
    events
}

fn exit_to_tell(id: &str, exec_id: &str, process: &mut Process, oom_killed: bool) -> Option<Body> {
    let exit = process
        .exit
        .as_ref()
        .filter(|_| !process.unannounced && !process.told)?;
    let body = Body::Exited(Exited {
        container_id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        status: Some(exit.status.clone()),
        core_dumped: exit.core_dumped,
        oom_killed,
        unix_time_ns: exit.unix_time_ns,
    });
    process.told = true;
    Some(body)
}
