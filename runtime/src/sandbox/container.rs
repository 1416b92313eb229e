//! One container of a sandbox.

use std::sync::Arc;

use bulkhead_agent_protocol::control::MAX_OTHER_PIDS;
use bulkhead_agent_protocol::message::{
    Body, Delete, Exec, Outcome, Pause, Pids, ResizePty, Resume, StartContainer, Stats, Update,
};
use oci_spec::runtime::{LinuxResources, Process};

use super::registry::{Entry, lock};
use super::{ErrorKind, Inner, SandboxError, StdioRequest, Streams, deadlines};
use crate::agent::AgentError;
use crate::hooks::{self, HookStatus};

/// A created container. Clones share it.
#[derive(Clone)]
pub struct Container {
    pub(super) sandbox: Arc<Inner>,
    pub(super) entry: Arc<Entry>,
}

/// A started exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecHandle {
    /// Pid of its anchor on the host.
    pub pid: u32,
}

impl Container {
    /// Pid of the anchor: the process on the host that stands for this container's init. Stays the same
    /// once that is gone.
    pub fn pid(&self) -> u32 {
        self.entry.pid.get().copied().unwrap_or_default()
    }

    /// The streams of init; the first caller gets them.
    pub fn take_streams(&self) -> Option<Streams> {
        lock(&self.entry.streams).take()
    }

    /// Releases init, then runs the poststart hooks.
    ///
    /// # Errors
    /// The guest could not.
    pub async fn start(&self) -> Result<(), SandboxError> {
        self.sandbox.follow_network().await?;
        let start = StartContainer {
            container_id: self.id(),
        };
        let deadline = deadlines::START.saturating_add(self.entry.start_hooks.unwrap_or_default());
        self.sandbox
            .agent
            .request("StartContainer", Body::StartContainer(start), deadline)
            .await?;
        hooks::run_all(
            &self.entry.hooks.poststart,
            &self.entry.hook_state(HookStatus::Running),
        )
        .await;
        Ok(())
    }

    /// Starts a further process. Its [`super::SandboxEvent::Exited`] may come before this returns.
    ///
    /// # Errors
    /// The process is not valid, or the guest could not start it; nothing of it is left then.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: &Process,
        stdio: StdioRequest,
    ) -> Result<(ExecHandle, Streams), SandboxError> {
        let mut plan = bulkhead_oci::plan_process(process)?;
        if let Some(init) = &self.entry.process {
            bulkhead_oci::inherit(&mut plan.process, init);
        }
        for warning in &plan.warnings {
            tracing::warn!(container = self.entry.id, exec = exec_id, "{warning}");
        }
        let process = serde_json::to_vec(&plan.process)
            .map_err(|error| SandboxError::doing(ErrorKind::Internal, "process", &error))?;
        let pid = self.sandbox.start_anchor(&self.entry, exec_id).await?;
        match self.exec_in_guest(exec_id, process, stdio).await {
            Ok(streams) => Ok((ExecHandle { pid }, streams)),
            Err(error) => {
                self.entry.end_anchor(exec_id).await;
                Err(error)
            }
        }
    }

    async fn exec_in_guest(
        &self,
        exec_id: &str,
        process: Vec<u8>,
        stdio: StdioRequest,
    ) -> Result<Streams, SandboxError> {
        let (stdio, streams) = self.sandbox.agent.open_streams(stdio)?;
        let exec = Exec {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
            process,
            stdio: Some(stdio),
        };
        self.sandbox
            .agent
            .request("Exec", Body::Exec(exec), deadlines::START)
            .await?;
        Ok(streams)
    }

    /// Sends a signal to init (`exec_id` empty), to an exec, or to every process of the container. A guest
    /// that does not even answer SIGKILL is killed as a whole.
    ///
    /// # Errors
    /// The guest could not, for example because there is no such process.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), SandboxError> {
        self.sandbox.kill(&self.entry, exec_id, signal, all).await
    }

    /// Sets a terminal's size, in characters. Without a terminal this does nothing.
    ///
    /// # Errors
    /// The guest could not.
    pub async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<(), SandboxError> {
        let resize = ResizePty {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
            width,
            height,
        };
        Ok(self.order("ResizePty", Body::ResizePty(resize)).await?)
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// The guest could not.
    pub async fn pause(&self) -> Result<(), SandboxError> {
        Ok(self
            .order(
                "Pause",
                Body::Pause(Pause {
                    container_id: self.id(),
                }),
            )
            .await?)
    }

    /// Thaws them.
    ///
    /// # Errors
    /// The guest could not.
    pub async fn resume(&self) -> Result<(), SandboxError> {
        Ok(self
            .order(
                "Resume",
                Body::Resume(Resume {
                    container_id: self.id(),
                }),
            )
            .await?)
    }

    /// Changes limits, in the guest and then on the host's cgroup; what is absent stays.
    ///
    /// # Errors
    /// A value is not valid, or the guest's or the host's kernel refuses it.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), SandboxError> {
        let plan = bulkhead_oci::plan_resources(resources)?;
        for warning in &plan.warnings {
            tracing::warn!(container = self.entry.id, "{warning}");
        }
        let guest = serde_json::to_vec(&plan.guest)
            .map_err(|error| SandboxError::doing(ErrorKind::Internal, "resources", &error))?;
        if let Some(io) = plan.host.block_io() {
            if self.sandbox.registry.all().len() > 1 {
                return Err(SandboxError::new(
                    ErrorKind::Unimplemented,
                    "resources.blockIO: the containers of a pod share their VM's I/O",
                ));
            }
            self.sandbox.machine().host.cgroup.limit_block_io(io)?;
        }
        let update = Update {
            container_id: self.id(),
            resources: guest,
        };
        self.order("Update", Body::Update(update)).await?;
        if let Some(cgroup) = self.entry.cgroup() {
            cgroup.apply(&plan.host)?;
        }
        Ok(())
    }

    /// Guest pids of the processes that are neither init nor a started exec, as the guest told them last;
    /// never waits for the guest.
    pub fn other_pids(&self) -> Vec<u32> {
        lock(&self.entry.stats)
            .as_deref()
            .map(|stats| stats.other_pids.clone())
            .unwrap_or_default()
    }

    /// Asks the guest for its processes now; otherwise it tells them once a second.
    ///
    /// # Errors
    /// The guest could not.
    pub async fn refresh_other_pids(&self) -> Result<(), SandboxError> {
        let pids = Body::Pids(Pids {
            container_id: self.id(),
        });
        let Outcome::Processes(list) = self.sandbox.agent.request("Pids", pids, deadlines::PIDS).await?
        else {
            return Err(AgentError::Nonsense { what: "Pids" }.into());
        };
        let others = list
            .processes
            .into_iter()
            .filter(|process| process.exec_id.is_none());
        if let Some(stats) = lock(&self.entry.stats).as_deref_mut() {
            stats.other_pids = others.map(|process| process.pid).take(MAX_OTHER_PIDS).collect();
        }
        Ok(())
    }

    /// The counters the guest sent last; never waits for the guest.
    pub fn stats(&self) -> Option<Stats> {
        lock(&self.entry.stats).as_deref().cloned()
    }

    /// Forgets an exec that has exited or was never started.
    ///
    /// # Errors
    /// It still runs. A guest that is gone or has never heard of it is no error.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(), SandboxError> {
        let delete = Delete {
            container_id: self.id(),
            exec_id: exec_id.to_owned(),
        };
        match self.order("Delete", Body::Delete(delete)).await {
            Ok(()) | Err(AgentError::Gone(_)) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        self.entry.end_anchor(exec_id).await;
        Ok(())
    }

    /// Makes sure that the anchor of a process that has exited is dying (`exec_id` empty: init's). It has
    /// been ended already where the exit was told by [`super::SandboxEvent::Exited`].
    pub fn process_exited(&self, exec_id: &str) {
        self.entry.drop_anchor(exec_id);
    }

    /// Removes the container from the guest, if there still is one, and everything of it on the host, and
    /// runs the poststop hooks. May be called again.
    ///
    /// # Errors
    /// What could not be removed from the host. A guest that does not answer is only logged: the VM's end
    /// takes care of it.
    pub async fn delete(&self) -> Result<(), SandboxError> {
        self.sandbox.delete(&self.entry).await
    }

    fn id(&self) -> String {
        self.entry.id.clone()
    }

    async fn order(&self, what: &'static str, body: Body) -> Result<(), AgentError> {
        self.sandbox.agent.order(what, body, deadlines::ORDER).await
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("id", &self.entry.id)
            .field("pid", &self.pid())
            .finish()
    }
}
