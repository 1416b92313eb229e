//! Turns what the agent says, and the end of the VM, into the sandbox's events.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::machine::Machine;
use super::registry::{Registry, lock};
use super::{ExitStatus, SandboxEvent, deadlines};
use crate::agent::AgentEvent;

/// Everything the pump needs; none of it keeps the sandbox alive.
pub(super) struct Pump {
    pub machine: Arc<Machine>,
    pub registry: Arc<Registry>,
    pub agent: mpsc::Receiver<AgentEvent>,
    pub events: mpsc::UnboundedSender<SandboxEvent>,
}

/// Which part of the sandbox ended first.
enum End {
    Vm,
    Link,
    FsServer,
}

impl Pump {
    /// Runs until the VM is gone, and says so last.
    pub async fn run(mut self) {
        let end = self.until_end().await;
        let reason = self.reason(end).await;
        self.machine.host.record.note_end(&reason);
        for entry in self.registry.all() {
            entry.end_anchors().await;
        }
        // The shim may have gone before its sandbox.
        self.events.send(SandboxEvent::VmGone { reason }).ok();
    }

    async fn until_end(&mut self) -> End {
        let (Some(vm), Some(server)) = (self.machine.vm(), self.machine.fs_server()) else {
            return End::Vm;
        };
        let (vm, server) = (vm.watch(), server.watch());
        loop {
            tokio::select! {
                // What the guest said before its end comes before its end.
                biased;
                event = self.agent.recv() => match event {
                    Some(event) => self.pass_on(event).await,
                    None => return End::Link,
                },
                _ = vm.wait() => break,
                _ = server.wait() => return End::FsServer,
            }
        }
        let deadline = Instant::now() + deadlines::LAST_WORDS;
        while let Ok(Some(event)) = timeout_at(deadline, self.agent.recv()).await {
            self.pass_on(event).await;
        }
        End::Vm
    }

    /// Makes sure that the VM has ended, and says why it did.
    async fn reason(&self, end: End) -> String {
        let Some(vm) = self.machine.vm() else {
            return "never started".to_owned();
        };
        let cause = match end {
            End::Vm => None,
            // The server ends when its VMM hangs up, too: then the VM is about to be seen dead.
            End::FsServer | End::Link
                if timeout(deadlines::AFTER_LINK, vm.process().wait()).await.is_ok() =>
            {
                None
            }
            End::Link => Some("agent_lost: the guest's agent hung up"),
            End::FsServer => Some("fs_backend_lost: the file-sharing server died"),
        };
        if cause.is_some()
            && let Err(error) = vm.kill()
        {
            tracing::warn!("{error}");
        }
        let death = vm.died().await;
        cause.map_or_else(|| death.to_string(), |cause| format!("{cause}; {death}"))
    }

    async fn pass_on(&self, event: AgentEvent) {
        match event {
            AgentEvent::Exited(exited) => {
                let at = SystemTime::now();
                let Some(entry) = self.registry.get(&exited.container_id) else {
                    return unknown("exit", &exited.container_id);
                };
                // Whoever hears of the exit may look for the pid.
                entry.end_anchor(&exited.exec_id).await;
                self.send(SandboxEvent::Exited {
                    status: ExitStatus::from_guest(exited.status.as_ref()),
                    container_id: exited.container_id,
                    exec_id: exited.exec_id,
                    oom_killed: exited.oom_killed,
                    core_dumped: exited.core_dumped,
                    at,
                });
            }
            AgentEvent::Oom(oom) => match self.registry.get(&oom.container_id) {
                Some(_) => self.send(SandboxEvent::Oom {
                    container_id: oom.container_id,
                }),
                None => unknown("out-of-memory kill", &oom.container_id),
            },
            AgentEvent::Stats(stats) => match self.registry.get(&stats.container_id) {
                Some(entry) => *lock(&entry.stats) = Some(stats),
                None => unknown("counters", &stats.container_id),
            },
        }
    }

    fn send(&self, event: SandboxEvent) {
        // Without a listener there is nobody to tell.
        self.events.send(event).ok();
    }
}

/// The guest may still speak of a container that is being deleted, or be lying.
fn unknown(what: &str, container: &str) {
    tracing::debug!(
        container,
        "the guest told of the {what} of a container that is not there"
    );
}
