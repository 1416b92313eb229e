//! One container of a sandbox.

use bulkhead_agent_protocol::message::{ProcessInfo, Stats};
use oci_spec::runtime::{LinuxResources, Process};

use super::{SandboxError, StdioRequest, Streams, unfinished};

/// A created container. Clones share it.
#[derive(Debug, Clone)]
pub struct Container {
    _private: (),
}

/// A started exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecHandle {
    /// Pid of its anchor on the host.
    pub pid: u32,
}

impl Container {
    /// Pid of the anchor: the process on the host that stands for this container's init.
    pub fn pid(&self) -> u32 {
        0
    }

    /// The streams of init; the first caller gets them.
    pub fn take_streams(&self) -> Option<Streams> {
        None
    }

    /// Releases init, then runs the poststart hooks.
    ///
    /// # Errors
    /// What failed.
    pub async fn start(&self) -> Result<(), SandboxError> {
        Err(unfinished("start"))
    }

    /// Starts a further process.
    ///
    /// # Errors
    /// What failed; nothing of the exec is left then.
    pub async fn exec(
        &self,
        exec_id: &str,
        process: &Process,
        stdio: StdioRequest,
    ) -> Result<(ExecHandle, Streams), SandboxError> {
        let _unused = (exec_id, process, stdio);
        Err(unfinished("exec"))
    }

    /// Sends a signal to init (`exec_id` empty), to an exec, or to every process of the container.
    ///
    /// # Errors
    /// What failed.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), SandboxError> {
        let _unused = (exec_id, signal, all);
        Err(unfinished("kill"))
    }

    /// Sets a terminal's size, in characters.
    ///
    /// # Errors
    /// What failed.
    pub async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<(), SandboxError> {
        let _unused = (exec_id, width, height);
        Err(unfinished("resize"))
    }

    /// Freezes the container's processes.
    ///
    /// # Errors
    /// What failed.
    pub async fn pause(&self) -> Result<(), SandboxError> {
        Err(unfinished("pause"))
    }

    /// Thaws them.
    ///
    /// # Errors
    /// What failed.
    pub async fn resume(&self) -> Result<(), SandboxError> {
        Err(unfinished("resume"))
    }

    /// Changes limits, in the guest and on the host's cgroup; what is absent stays.
    ///
    /// # Errors
    /// What failed.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), SandboxError> {
        let _unused = resources;
        Err(unfinished("update"))
    }

    /// The container's processes in the guest, init first.
    ///
    /// # Errors
    /// What failed.
    pub async fn pids(&self) -> Result<Vec<ProcessInfo>, SandboxError> {
        Err(unfinished("pids"))
    }

    /// The counters the guest sent last; never waits for the guest.
    pub fn stats(&self) -> Option<Stats> {
        None
    }

    /// Forgets an exec that has exited or was never started.
    ///
    /// # Errors
    /// What failed.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(), SandboxError> {
        let _unused = exec_id;
        Err(unfinished("delete"))
    }

    /// Ends the anchor of a process whose [`super::SandboxEvent::Exited`] has been seen (`exec_id`
    /// empty: init's), so that the host's pid is gone when the exit is told.
    pub fn process_exited(&self, exec_id: &str) {
        let _unused = exec_id;
    }

    /// Removes the container from the guest, if there still is one, and everything of it on the host;
    /// runs the poststop hooks. May be called again.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn delete(&self) -> Result<(), SandboxError> {
        Err(unfinished("delete"))
    }
}
