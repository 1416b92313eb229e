//! Start, of init and of execs.

use std::sync::Arc;

use bulkhead_oci::runtime::{BoxBuilder, Process as ProcessSpec};
use bulkhead_runtime::sandbox::{ErrorKind, SandboxError};
use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};

use super::{Container, Process};
use crate::error::TaskError;
use crate::process_state::Exit;
use crate::stdio::{Copies, Stdio};

/// What Wait answers for an exec that failed to start, as runc's shim does: its caller got the error.
const NEVER_RAN: Exit = Exit { status: 0, at: None };

impl Container {
    /// Starts init.
    ///
    /// # Errors
    /// It has been started before, or the guest cannot.
    pub async fn start(self: &Arc<Self>) -> Result<u32, TaskError> {
        {
            let mut processes = self.lock();
            processes.init.state.begin_start()?;
            if let Some(copies) = &processes.init.copies {
                copies.process_starts();
            }
        }
        let outcome = self.guest.start().await;
        let mut processes = self.lock();
        let pid = processes.init.pid;
        let exit = if outcome.is_ok() {
            self.publisher.publish(&TaskStart {
                container_id: self.id.clone(),
                pid,
                ..TaskStart::default()
            });
            processes.init.state.started()
        } else {
            processes.init.state.start_failed()
        };
        if let Some(exit) = exit {
            self.ended(&mut processes, "", exit);
        }
        outcome?;
        Ok(pid)
    }

    /// Starts an exec.
    ///
    /// # Errors
    /// The container does not run, the exec has been started before, its fifos are not there, or the guest
    /// cannot start it. It can be deleted then.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str) -> Result<u32, TaskError> {
        let (spec, paths) = {
            let mut processes = self.lock();
            let init = processes.init.state;
            let exec = processes.get_mut(exec_id)?;
            if init.exit().is_some() {
                return Err(self.not_running());
            }
            init.may_exec()?;
            exec.state.begin_start()?;
            (exec.sized_spec(), exec.paths.clone())
        };
        let started = match spec {
            Some(spec) => self.start_in_guest(exec_id, &spec, &paths).await,
            None => Err(TaskError::Internal(format!("exec {exec_id} has no spec"))),
        };
        match started {
            Ok((pid, copies)) => self.exec_started(exec_id, pid, copies).await,
            Err(error) => {
                self.exec_failed(exec_id);
                Err(error)
            }
        }
    }

    async fn start_in_guest(
        &self,
        exec_id: &str,
        spec: &ProcessSpec,
        paths: &crate::stdio::Paths,
    ) -> Result<(u32, Copies), TaskError> {
        let stdio = Stdio::open(paths, &self.namespace, &self.id).await?;
        let (handle, streams) = self.guest.exec(exec_id, spec, stdio.request()).await?;
        let name = format!("{}/{exec_id}", self.id);
        Ok((handle.pid, stdio.attach(streams, &name)))
    }

    async fn exec_started(
        self: &Arc<Self>,
        exec_id: &str,
        pid: u32,
        copies: Copies,
    ) -> Result<u32, TaskError> {
        // runc leaves it too; only for humans, so a full disk does not matter.
        drop(std::fs::write(
            self.bundle.join(format!("{exec_id}.pid")),
            pid.to_string(),
        ));
        let late_size = {
            let mut processes = self.lock();
            let exec = processes.get_mut(exec_id)?;
            exec.pid = pid;
            copies.process_starts();
            if exec.stdin_closed {
                copies.close_stdin();
            }
            exec.copies = Some(copies);
            let late_size = exec.size.take();
            self.publisher.publish(&TaskExecStarted {
                container_id: self.id.clone(),
                exec_id: exec_id.to_owned(),
                pid,
                ..TaskExecStarted::default()
            });
            if let Some(exit) = exec.state.started() {
                self.ended(&mut processes, exec_id, exit);
            }
            late_size
        };
        if let Some((width, height)) = late_size {
            // The process runs; it may even have ended.
            drop(self.guest.resize(exec_id, width, height).await);
        }
        Ok(pid)
    }

    fn exec_failed(self: &Arc<Self>, exec_id: &str) {
        let mut processes = self.lock();
        if let Ok(exec) = processes.get_mut(exec_id) {
            match exec.state.start_failed() {
                Some(exit) => return self.ended(&mut processes, exec_id, exit),
                None => drop(exec.ended.send_replace(Some(NEVER_RAN))),
            }
        }
        self.exec_settled(&mut processes);
    }

    fn not_running(&self) -> TaskError {
        let text = format!(
            "container {} init process is not running: failed precondition",
            self.id
        );
        SandboxError::new(ErrorKind::FailedPrecondition, text).into()
    }
}

impl Process {
    /// What to start, with the size that ResizePty has set meanwhile.
    fn sized_spec(&mut self) -> Option<Box<ProcessSpec>> {
        let mut spec = self.spec.take()?;
        if let Some((width, height)) = self.size.take()
            && let Ok(size) = BoxBuilder::default().width(width).height(height).build()
        {
            spec.set_console_size(Some(size));
        }
        Some(spec)
    }
}
