//! What happens to a process in the guest whose anchor is killed.

use std::sync::{Arc, Weak};

use bulkhead_agent_protocol::message::{Body, Kill};

use super::registry::Entry;
use super::{Inner, SandboxError, deadlines};
use crate::agent::AgentError;
use crate::process::ExitWatch;

const SIGKILL: u32 = libc::SIGKILL as u32;

/// Waits for an anchor's end. If nobody here has ended it, somebody on the host killed the pid that stands
/// for the guest's process (an administrator, kubelet emptying a cgroup), and means that process.
pub(super) async fn watch(
    anchor: ExitWatch,
    pid: u32,
    sandbox: Weak<Inner>,
    entry: Weak<Entry>,
    exec_id: String,
) {
    anchor.wait().await;
    let (Some(sandbox), Some(entry)) = (sandbox.upgrade(), entry.upgrade()) else {
        return;
    };
    if !entry.has_anchor(&exec_id, pid) {
        return;
    }
    tracing::info!(
        container = entry.id,
        exec = exec_id,
        pid,
        "killed on the host: killing it in the guest"
    );
    let all = exec_id.is_empty();
    if let Err(error) = sandbox.kill(&entry, &exec_id, SIGKILL, all).await {
        // Usually it has just ended by itself.
        tracing::debug!(container = entry.id, exec = exec_id, "{error}");
    }
}

impl Inner {
    /// Sends a signal. A guest that does not even answer SIGKILL is killed as a whole.
    pub(super) async fn kill(
        self: &Arc<Self>,
        entry: &Entry,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), SandboxError> {
        let kill = Kill {
            container_id: entry.id.clone(),
            exec_id: exec_id.to_owned(),
            signal,
            all,
        };
        match self.agent.order("Kill", Body::Kill(kill), deadlines::ORDER).await {
            Err(AgentError::Slow { .. }) if signal == SIGKILL => {
                let state = self.examine_vm().await;
                tracing::warn!(
                    container = entry.id,
                    state,
                    "the guest does not answer SIGKILL: killing the VM"
                );
                self.kill_vm()
            }
            result => Ok(result?),
        }
    }
}
