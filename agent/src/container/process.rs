//! One process of a container that the host knows by name.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::message::{ExitStatus, FailureKind};
use nix::errno::Errno;
use tokio::task::AbortHandle;

use crate::agent::Agent;
use crate::failure::Failure;
use crate::lock;
use crate::stdio::Streams;
use crate::sys;
use crate::zygote::Spawned;

/// A started process, dead or alive.
#[derive(Debug)]
pub struct Process {
    /// Pid in the agent's namespace. May be another's once `exit` is set.
    pub pid: i32,
    /// Unlike the pid never used twice; tells an exit of this process from one of its successor.
    pub generation: u64,
    /// Master of its terminal.
    terminal: Option<Arc<OwnedFd>>,
    /// Tasks that move its streams. They end by themselves at end of file; deleting it ends them early.
    relays: Vec<AbortHandle>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// The reply to the request that starts it is not sent yet; its exit waits for that.
    pub unannounced: bool,
    /// The host was told how it ended.
    pub told: bool,
}

/// How and when a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// By itself or by a signal.
    pub status: ExitStatus,
    /// It left a core dump.
    pub core_dumped: bool,
    /// Guest's wall clock at reap.
    pub unix_time_ns: u64,
}

impl Process {
    /// Connects the streams of a process that the zygote has just made.
    ///
    /// # Errors
    /// As [`Streams::start`]; the process is then abandoned.
    pub fn connect(
        agent: &Agent,
        streams: Streams,
        mut spawned: Spawned,
    ) -> Result<(Self, Spawned), Failure> {
        let terminal = spawned.terminal.take().map(Arc::new);
        let relays = match streams.start(terminal.as_ref()) {
            Ok(relays) => relays,
            Err(failure) => {
                spawned.abandon();
                return Err(failure);
            }
        };
        let process = Self {
            pid: spawned.pid,
            generation: lock(&agent.registry).next_generation(),
            terminal,
            relays,
            exit: None,
            unannounced: true,
            told: false,
        };
        Ok((process, spawned))
    }

    /// Sends `signal`. The pid is ours until we reap it, and we reap only between calls.
    ///
    /// # Errors
    /// `NotFound` in runc's words when it has ended.
    pub fn kill(&self, signal: i32) -> Result<(), Failure> {
        let finished = || Failure::not_found("process already finished");
        if self.exit.is_some() {
            return Err(finished());
        }
        match sys::kill(self.pid, signal) {
            Err(Errno::ESRCH) => Err(finished()),
            outcome => outcome.map_err(|errno| {
                Failure::os(
                    FailureKind::InvalidArgument,
                    format!("send signal {signal}"),
                    &errno,
                )
            }),
        }
    }

    /// Sets its terminal's size; without a terminal there is nothing to do.
    ///
    /// # Errors
    /// `Pty`.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), Failure> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        sys::ioctl::set_window_size(terminal.as_fd(), size(width), size(height))
            .map_err(|errno| Failure::os(FailureKind::Pty, "resize terminal", &errno))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for relay in &self.relays {
            relay.abort();
        }
    }
}

impl Exit {
    /// Decodes a wait status; the time is now.
    pub fn decode(status: i32) -> Self {
        let unix_time_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|elapsed| u64::try_from(elapsed.as_nanos()).ok())
            .unwrap_or_default();
        let status_of = |number: i32| u32::try_from(number).unwrap_or_default();
        let (status, core_dumped) = if libc::WIFSIGNALED(status) {
            (
                ExitStatus::Signal(status_of(libc::WTERMSIG(status))),
                libc::WCOREDUMP(status),
            )
        } else {
            (ExitStatus::Code(status_of(libc::WEXITSTATUS(status))), false)
        };
        Self {
            status,
            core_dumped,
            unix_time_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_are_decoded() {
        assert_eq!(Exit::decode(255 << 8).status, ExitStatus::Code(255));
        let killed = Exit::decode(9);
        assert_eq!(
            (killed.status, killed.core_dumped),
            (ExitStatus::Signal(9), false)
        );
        let dumped = Exit::decode(11 | 0x80);
        assert_eq!(
            (dumped.status, dumped.core_dumped),
            (ExitStatus::Signal(11), true)
        );
        assert_eq!(Exit::decode(34).status, ExitStatus::Signal(34));
    }
}
