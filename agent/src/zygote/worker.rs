//! The zygote's loop, and a worker's frame: receive, do, report, wait, end.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_agent_protocol::message::{FailureKind, Started};
use nix::errno::Errno;
use prost::Message;

use super::job::{Job, Outcome, Report, Work};
use super::{exec, init};
use crate::container::cgroup::{CONTAINERS, Cgroup};
use crate::container::devices;
use crate::failure::Failure;
use crate::guest::mounts::CGROUPS;
use crate::sys;

/// Largest job accepted: the protocol's largest control frame, twice: a spec and what is sent along with it.
const MAX_JOB: u32 = 8 * 1024 * 1024;

/// A job's length comes before it, in so many bytes.
const LENGTH: usize = size_of::<u32>();

/// What the zygote is told beside the descriptors: that there is a job, or that there will be one.
pub const JOB: [u8; 1] = [0];
/// See [`JOB`].
pub const AHEAD_OF_TIME: [u8; 1] = [1];

/// What a job made.
pub struct Made {
    /// Pid in the agent's pid namespace.
    pub pid: i32,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Forks a worker for each job until the agent is gone. Returns the zygote's exit code.
pub fn serve(control: &OwnedFd) -> i32 {
    // What is ignored here would be ignored in containers. Workers are not waited for: each tells its
    // result itself, by its channel or by closing it.
    if sys::fork::reset_signals().is_err() || sys::fork::reap_automatically(true).is_err() {
        return 1;
    }
    if let Err(failure) = filter_devices() {
        // Without it, containers would have the guest's disks.
        eprintln!("bulkhead-agent: {failure}");
        return 1;
    }
    loop {
        let mut byte = [0];
        let (length, mut fds) = match sys::socket::receive(control, &mut byte) {
            Ok(received) => received,
            Err(Errno::EINTR) => continue,
            Err(_) => return 1,
        };
        if length == 0 {
            return 0;
        }
        if fds.is_empty() {
            continue;
        }
        let channel = UnixStream::from(fds.remove(0));
        // If there is no memory for a worker, dropping the channel tells the agent.
        let _ = sys::fork::fork(|| match byte {
            AHEAD_OF_TIME => work_ahead(channel, fds),
            _ => work(channel, fds),
        });
    }
}

/// Attaches the device filter that containers inherit. Here and not in the agent's boot, which would wait for
/// it; the first job does.
fn filter_devices() -> Result<(), Failure> {
    let containers = Cgroup::existing(Path::new(CGROUPS), CONTAINERS.into());
    match containers.filter_devices_below(&devices::standard()) {
        // A host that the agent only visits may not be prepared for containers; then there are none.
        Err(failure) if failure.errno == libc::ENOENT => Ok(()),
        outcome => outcome,
    }
}

/// A worker's life. Returns its exit code.
fn work(mut channel: UnixStream, fds: Vec<OwnedFd>) -> i32 {
    let outcome = prepare()
        .and_then(|()| read_job(&mut channel))
        .and_then(|work| match work {
            Work::Create(job) => init::create(&job, fds),
            Work::Exec(job) => exec::start(&job, fds),
        });
    conclude(channel, outcome)
}

/// The life of a worker that has no job yet: its init waits for one. Returns its exit code.
fn work_ahead(channel: UnixStream, fds: Vec<OwnedFd>) -> i32 {
    let outcome = prepare().and_then(|()| init::create_ahead(&channel, fds));
    conclude(channel, outcome)
}

fn conclude(mut channel: UnixStream, outcome: Result<Made, Failure>) -> i32 {
    let mut made_pid = None;
    let (outcome, terminal) = match outcome {
        Ok(Made { pid, terminal }) => {
            made_pid = Some(pid);
            let pid = u32::try_from(pid).unwrap_or_default();
            (Outcome::Started(Started { pid }), terminal)
        }
        Err(failure) => (Outcome::Failed(failure.into()), None),
    };
    if send_report(&mut channel, outcome, terminal.as_ref()).is_err() {
        if let Some(pid) = made_pid {
            // The agent has given up waiting; nobody would ever know this process. It may have ended itself.
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        return 1;
    }
    // Ends when the agent has registered the pid and closed its end, or is gone itself.
    match channel.read_to_end(&mut Vec::new()) {
        Ok(_) => 0,
        Err(_) => 1,
    }
}

/// Undoes what a worker inherited and a container must not have.
fn prepare() -> Result<(), Failure> {
    let failed = |stage: &str, errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    // A zygote that was saved with its VM has the guards of every other copy.
    sys::guards::renew().map_err(|errno| failed("renew the guards of the stack", errno))?;
    sys::fork::reap_automatically(false).map_err(|errno| failed("set SIGCHLD", errno))?;
    // Until exec, nobody in the container may trace a worker or reach the agent's program through it.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| failed("set dumpable", errno))
}

/// Sets how ready the kernel is to kill the process that is about to be made: the agent and the zygote are
/// protected, what they make is not. Before namespaces are joined: afterwards /proc is the container's.
///
/// # Errors
/// `Other`.
pub fn set_oom_score(score: i32) -> Result<(), Failure> {
    fs::write("/proc/self/oom_score_adj", score.to_string())
        .map_err(|error| Failure::os(FailureKind::Other, "set oom_score_adj", &error))
}

/// A job whose descriptors come along with it. `None`: there will be none.
///
/// # Errors
/// `Other`, `InvalidArgument`.
pub fn receive_job(mut channel: UnixStream) -> Result<Option<(Work, Vec<OwnedFd>)>, Failure> {
    let mut length = [0; LENGTH];
    let (first, fds) = sys::socket::receive(&channel, &mut length)
        .map_err(|errno| Failure::os(FailureKind::Other, "receive job", &errno))?;
    if first == 0 {
        return Ok(None);
    }
    channel
        .read_exact(&mut length[first..])
        .map_err(|error| not_received(&error))?;
    Ok(Some((read_rest(&mut channel, length)?, fds)))
}

fn read_job(channel: &mut UnixStream) -> Result<Work, Failure> {
    let mut length = [0; LENGTH];
    channel
        .read_exact(&mut length)
        .map_err(|error| not_received(&error))?;
    read_rest(channel, length)
}

fn not_received(error: &std::io::Error) -> Failure {
    Failure::os(FailureKind::Other, "receive job", error)
}

fn read_rest(channel: &mut UnixStream, length: [u8; LENGTH]) -> Result<Work, Failure> {
    let length = u32::from_le_bytes(length);
    if length > MAX_JOB {
        return Err(Failure::invalid(format!(
            "the process takes {length} bytes to describe"
        )));
    }
    let mut bytes = vec![0; length as usize];
    channel
        .read_exact(&mut bytes)
        .map_err(|error| not_received(&error))?;
    let job = Job::decode(&bytes[..]).map_err(|error| Failure::invalid(format!("job: {error}")))?;
    job.work.ok_or_else(|| Failure::invalid("job: nothing to do"))
}

fn send_report(
    channel: &mut UnixStream,
    outcome: Outcome,
    terminal: Option<&OwnedFd>,
) -> std::io::Result<()> {
    let report = Report {
        outcome: Some(outcome),
    };
    // Its length first: the channel stays open.
    let bytes = report.encode_length_delimited_to_vec();
    let fds: Vec<_> = terminal.into_iter().map(AsFd::as_fd).collect();
    let sent = sys::socket::send(&*channel, &bytes, &fds)?;
    channel.write_all(&bytes[sent..])
}
