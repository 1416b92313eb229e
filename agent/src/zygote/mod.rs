//! Makes processes of containers, away from the agent.
//!
//! The agent is an event loop with threads now and then; the code that becomes a container's process
//! (namespaces, mounts, credentials) forks several times and must never run there. So the agent forks
//! one small single-threaded process before it starts its loop: the zygote. It waits for jobs and
//! forks a worker for each, which costs a fifth of starting a program anew.
//!
//! ```text
//! agent ── job, descriptors ──> zygote ── fork ──> worker ── fork ──> process of the container
//!   │  <───────────── pid (and a terminal's master) ──────┘ waits           │
//!   └─ registers the pid, closes the channel ─────────────> ends            └──> child of the agent
//! ```
//!
//! A worker stays the parent of what it made until the agent has closed the channel, so that the agent
//! cannot reap a process that it does not know yet: no exit is lost and none is mistaken for another's.

pub mod credentials;
pub mod diagnosis;
pub mod exec;
pub mod init;
pub mod job;
pub mod program;
mod worker;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::sys;
use job::{Job, MAX_REPORT, Report};

/// How long a worker may take: far more than any does, less than a host waits. A container that was paused
/// meanwhile freezes its worker's child, and some file systems wait for ever.
const JOB_DEADLINE: Duration = Duration::from_secs(60);

/// The agent's end.
pub struct Zygote {
    control: OwnedFd,
    pid: Pid,
}

/// A process that a worker made and still is the parent of.
pub struct Spawned {
    /// Its pid in the agent's pid namespace.
    pub pid: i32,
    /// Master of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// Dropping it lets the worker end; the agent then is the parent.
    _channel: UnixStream,
}

impl Spawned {
    /// Kills a process that cannot be used after all. Its worker reaps it or leaves it to the agent,
    /// which does not know it.
    pub fn abandon(self) {
        // It may have ended by itself already; then it is still its worker's zombie, and nobody else.
        let _ = sys::kill(self.pid, libc::SIGKILL);
    }
}

impl Zygote {
    /// Forks the zygote. Call it while this process has one thread and no descriptor that a
    /// container's process may not inherit.
    ///
    /// # Errors
    /// As `socketpair(2)` and `fork(2)`.
    pub fn start() -> nix::Result<Self> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        let mut ours = Some(ours);
        let pid = sys::fork::fork(|| {
            // The zygote must see the end of the agent as the end of this socket.
            drop(ours.take());
            worker::serve(&theirs)
        })?;
        ours.map(|control| Self { control, pid }).ok_or(Errno::EBADF)
    }

    /// The zygote's pid. The agent cannot go on without it.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Has a worker do `job` with `fds`, and waits for its report.
    ///
    /// # Errors
    /// The worker's own failure, or that it could not be reached.
    pub async fn run(&self, job: &Job, fds: &[BorrowedFd<'_>]) -> Result<Spawned, Failure> {
        let request = serde_json::to_vec(job).map_err(|error| lost(&format!("job: {error}")))?;
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| lost(&error.to_string()))?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        sys::socket::send(&self.control, &[0], &all).map_err(|errno| lost(errno.desc()))?;
        drop(theirs);
        ours.set_nonblocking(true)
            .map_err(|error| lost(&error.to_string()))?;
        let mut channel = UnixStream::from_std(ours).map_err(|error| lost(&error.to_string()))?;
        // Its length first, so that the worker knows the end while the channel stays open both ways.
        let length = u32::try_from(request.len()).map_err(|_| Failure::invalid("job is too large"))?;
        for part in [&length.to_le_bytes()[..], &request] {
            channel
                .write_all(part)
                .await
                .map_err(|error| lost(&error.to_string()))?;
        }
        let report = timeout(JOB_DEADLINE, read_report(&channel));
        match report.await.map_err(|_| lost("it takes too long"))?? {
            (Report::Failed(failure), _) => Err(failure),
            (Report::Started { pid }, terminal) => Ok(Spawned {
                pid,
                terminal,
                _channel: channel,
            }),
        }
    }
}

/// One report is one JSON object on a line; a terminal's master comes along with its bytes.
async fn read_report(channel: &UnixStream) -> Result<(Report, Option<OwnedFd>), Failure> {
    let mut text = Vec::new();
    let mut terminal = None;
    while text.last() != Some(&b'\n') {
        let mut part = [0; 1024];
        let received = channel
            .async_io(Interest::READABLE, || {
                Ok(sys::socket::receive(channel, &mut part)?)
            })
            .await
            .map_err(|error| lost(&error.to_string()))?;
        let (length, fds) = received;
        if length == 0 {
            return Err(lost("it ended without a report"));
        }
        text.extend_from_slice(&part[..length]);
        if text.len() > MAX_REPORT {
            return Err(lost("its report is too long"));
        }
        terminal = fds.into_iter().next().or(terminal);
    }
    let report = serde_json::from_slice(&text).map_err(|error| lost(&error.to_string()))?;
    Ok((report, terminal))
}

fn lost(reason: &str) -> Failure {
    Failure::new(
        FailureKind::Other,
        "worker",
        format!("the process that sets up containers: {reason}"),
    )
}
