//! Delete, of execs and of the container with its init.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::exits::KILLED;
use super::{Container, Processes, wait_for_end};
use crate::error::TaskError;
use crate::process_state::{Exit, Phase};
use crate::stdio::Copies;

/// How long a created init may take to die, and an exit to be told in its turn.
const EXIT_DEADLINE: Duration = Duration::from_secs(5);
/// SIGKILL's number.
const SIGKILL: u32 = 9;

/// What Delete answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Host pid the process had.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

impl Container {
    /// Forgets an exec: its streams are drained and closed first.
    ///
    /// # Errors
    /// It runs, or there is none.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<Deleted, TaskError> {
        let (copies, phase) = {
            let mut processes = self.lock();
            let exec = processes.get_mut(exec_id)?;
            exec.state.may_delete()?;
            (exec.copies.take(), exec.state.phase())
        };
        if let Some(copies) = copies {
            copies.finish().await;
        }
        if let Phase::Stopped(_) = phase
            && let Err(error) = self.guest.delete_exec(exec_id).await
        {
            // Whatever the guest still has of it goes with the container.
            tracing::warn!(container = %self.id, exec = exec_id, %error, "exec not deleted in the guest");
        }
        let mut processes = self.lock();
        // A second Delete may have been faster.
        let exec = processes
            .execs
            .remove(exec_id)
            .ok_or_else(|| TaskError::NoProcess(exec_id.to_owned()))?;
        let exit = exec.state.exit().unwrap_or(Exit { status: 0, at: None });
        Ok(Deleted { pid: exec.pid, exit })
    }

    /// Removes the container from the guest and the host. A created init is killed first.
    ///
    /// # Errors
    /// It runs.
    pub async fn delete(self: &Arc<Self>) -> Result<Deleted, TaskError> {
        let (ended, phase) = {
            let processes = self.lock();
            processes.init.state.may_delete()?;
            (processes.init.ended.subscribe(), processes.init.state.phase())
        };
        if phase == Phase::Created {
            // Deleting it below kills it as well, so all that is lost with an error is its exit status.
            drop(self.guest.kill("", SIGKILL, false).await);
        }
        let exit = timeout(EXIT_DEADLINE, wait_for_end(ended)).await.ok().flatten();
        self.finish_streams().await;
        if let Err(error) = self.guest.delete().await {
            // The client would not try again, and `delete` cleans up what is left.
            tracing::warn!(container = %self.id, %error, "container not completely removed");
        }
        let killed = Exit {
            status: KILLED,
            at: Some(std::time::SystemTime::now()),
        };
        Ok(Deleted {
            pid: self.pid(),
            exit: exit.unwrap_or(killed),
        })
    }

    /// All at the same time: each has the same short while.
    async fn finish_streams(&self) {
        let copies: Vec<Copies> = {
            let mut processes = self.lock();
            let Processes { init, execs, .. } = &mut *processes;
            std::iter::once(init)
                .chain(execs.values_mut())
                .filter_map(|p| p.copies.take())
                .collect()
        };
        let mut finishing = tokio::task::JoinSet::new();
        for copies in copies {
            finishing.spawn(copies.finish());
        }
        while finishing.join_next().await.is_some() {}
    }
}
