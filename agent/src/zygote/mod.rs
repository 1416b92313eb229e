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

mod capabilities;
mod console;
mod credentials;
mod devices;
mod entry;
mod exec;
mod filter;
pub mod gate;
mod groundwork;
mod hidden_paths;
mod hooks;
mod init;
pub mod job;
mod mount_options;
mod mounts;
pub mod namespaces;
mod program;
mod ready_made;
mod root;
mod rootfs;
mod scheduling;
pub mod spare;
mod standard_streams;
mod worker;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use prost::Message;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::sys;
use job::{Job, MAX_REPORT, Outcome, Report, Work};

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
    pub async fn run(&self, work: Work, fds: &[BorrowedFd<'_>]) -> Result<Spawned, Failure> {
        let channel = self.worker(&worker::JOB, fds)?;
        ask(channel, work, &[]).await
    }

    /// Forks a worker that takes `fds`; what is to be said to it, and by it, goes over the channel.
    fn worker(&self, what: &[u8], fds: &[BorrowedFd<'_>]) -> Result<StdUnixStream, Failure> {
        let (ours, theirs) = StdUnixStream::pair().map_err(|error| lost(&error.to_string()))?;
        let mut all = vec![theirs.as_fd()];
        all.extend_from_slice(fds);
        sys::socket::send(&self.control, what, &all).map_err(|errno| lost(errno.desc()))?;
        Ok(ours)
    }
}

/// Tells a worker its job, with `fds`, and waits for its report.
async fn ask(channel: StdUnixStream, work: Work, fds: &[BorrowedFd<'_>]) -> Result<Spawned, Failure> {
    let request = Job { work: Some(work) }.encode_to_vec();
    // Its length first, so that the worker knows the end while the channel stays open both ways.
    let length = u32::try_from(request.len()).map_err(|_| Failure::invalid("job is too large"))?;
    let length = length.to_le_bytes();
    let sent = sys::socket::send(&channel, &length, fds).map_err(|errno| lost(errno.desc()))?;
    channel
        .set_nonblocking(true)
        .map_err(|error| lost(&error.to_string()))?;
    let mut channel = UnixStream::from_std(channel).map_err(|error| lost(&error.to_string()))?;
    for part in [&length[sent..], &request] {
        channel
            .write_all(part)
            .await
            .map_err(|error| lost(&error.to_string()))?;
    }
    let report = timeout(JOB_DEADLINE, read_report(&channel));
    match report.await.map_err(|_| lost("it takes too long"))?? {
        (Outcome::Failed(failed), _) => Err(failed.into()),
        (Outcome::Started(started), terminal) => Ok(Spawned {
            pid: i32::try_from(started.pid).map_err(|_| lost("its report is nonsense"))?,
            terminal,
            _channel: channel,
        }),
    }
}

/// A report with its length before it; a terminal's master comes along with its bytes.
async fn read_report(channel: &UnixStream) -> Result<(Outcome, Option<OwnedFd>), Failure> {
    let mut bytes = Vec::new();
    let mut terminal = None;
    loop {
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
        bytes.extend_from_slice(&part[..length]);
        if bytes.len() > MAX_REPORT {
            return Err(lost("its report is too long"));
        }
        terminal = fds.into_iter().next().or(terminal);
        if is_whole(&bytes) {
            break;
        }
    }
    let report = Report::decode_length_delimited(&bytes[..]).map_err(|error| lost(&error.to_string()))?;
    let outcome = report.outcome.ok_or_else(|| lost("its report is empty"))?;
    Ok((outcome, terminal))
}

fn is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    prost::decode_length_delimiter(&mut rest).is_ok_and(|length| rest.len() >= length)
}

fn lost(reason: &str) -> Failure {
    Failure::new(
        FailureKind::Other,
        "worker",
        format!("the process that sets up containers: {reason}"),
    )
}
