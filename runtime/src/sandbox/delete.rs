//! Removing a container, and the end of the whole sandbox.

use std::sync::Arc;
use std::time::Duration;

use bulkhead_agent_protocol::message::{Body, Delete, Shutdown};
use tokio::time::{Instant, timeout, timeout_at};

use super::registry::{Entry, Resources};
use super::{ErrorKind, Inner, SandboxError, deadlines};
use crate::agent::AgentError;
use crate::hooks::{self, HookStatus};
use crate::state::Phase;

impl Inner {
    /// Removes a container from the guest, if there is one, and from the host.
    pub(super) async fn delete(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), SandboxError> {
        if self.is_vm_alive()
            && let Err(error) = self.delete_in_guest(entry).await
        {
            // What is left in the guest ends with the VM; the host's part must not wait for it.
            tracing::warn!(container = entry.id, "delete in the guest: {error}");
        }
        self.release(entry).await
    }

    /// Has the agent remove the container; one that the guest does not know is removed.
    pub(super) async fn delete_in_guest(&self, entry: &Entry) -> Result<(), AgentError> {
        let delete = Delete {
            container_id: entry.id.clone(),
            exec_id: String::new(),
        };
        let order = self.agent.order("Delete", Body::Delete(delete), deadlines::ORDER);
        match order.await {
            Err(error) if error.is_not_found() => Ok(()),
            done => done,
        }
    }

    /// Gives everything of a container on the host back, runs its poststop hooks, and frees its id. Done by
    /// the first caller.
    pub(super) async fn release(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), SandboxError> {
        if self
            .registry
            .get(&entry.id)
            .is_none_or(|known| !Arc::ptr_eq(&known, entry))
        {
            return Ok(());
        }
        entry.end_anchors().await;
        self.unplug(entry).await;
        self.unplug_devices(entry).await;
        let resources = entry.take_resources();
        let result = match resources {
            Some(Resources { undo, .. }) => match tokio::task::spawn_blocking(move || undo.run()).await {
                Ok(result) => {
                    result.map_err(|failed| SandboxError::new(ErrorKind::Internal, failed.to_string()))
                }
                Err(_) => Err(SandboxError::new(ErrorKind::Internal, "clean-up panicked")),
            },
            None => Ok(()),
        };
        let record = &self.machine().host.record;
        // Before they run: hooks run once, and whoever cleans up after a crash would run them again.
        record.forget(|state| {
            if let Some(container) = state.containers.get_mut(&entry.id) {
                container.poststop.clear();
            }
        });
        // A container that never got an anchor has run none of its hooks.
        if entry.pid.get().is_some() {
            hooks::run_all(&entry.hooks.poststop, &entry.hook_state(HookStatus::Stopped)).await;
        }
        if result.is_ok() {
            record.forget(|state| drop(state.containers.remove(&entry.id)));
        }
        self.registry.remove(&entry.id);
        result
    }

    pub(super) async fn shutdown(self: &Arc<Self>, deadline: Duration) -> Result<(), SandboxError> {
        let until = Instant::now() + deadline;
        let host = &self.machine().host;
        self.creations.close();
        if self.is_vm_alive() {
            host.record.forget(|state| state.phase = Phase::Draining);
            self.power_off(until, deadline).await;
        }
        let mut result = self.machine().stop().await;
        // Without a VM they fail, and undo what they did.
        if timeout(deadlines::CREATIONS_END, self.creations.wait())
            .await
            .is_err()
        {
            tracing::warn!("a container is still being created while its sandbox goes");
        }
        for entry in self.registry.all() {
            result = result.and(self.release(&entry).await);
        }
        result.and(self.machine().end().await)
    }

    /// Asks the guest to power off and waits for the VM's end, for as long as there is time.
    async fn power_off(&self, until: Instant, deadline: Duration) {
        let Some(vm) = self.machine().vm() else { return };
        let exit = vm.watch();
        let farewell = async {
            // The answer may get lost in the guest's end, which is what is waited for.
            if let Err(error) = self
                .agent
                .order("Shutdown", Body::Shutdown(Shutdown {}), deadline)
                .await
            {
                tracing::debug!("shutdown: {error}");
            }
            exit.wait().await
        };
        if timeout_at(until, farewell).await.is_err() {
            tracing::warn!("the guest did not power off within {deadline:?}: killing the VM");
        }
    }

    pub(super) fn is_vm_alive(&self) -> bool {
        self.machine()
            .vm()
            .is_some_and(|vm| vm.process().try_wait().is_none())
    }
}
