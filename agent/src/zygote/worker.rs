//! The zygote's loop, and a worker's frame: receive, do, report, wait, end.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;

use super::job::{Job, Report};
use super::{exec, init};
use crate::failure::Failure;
use crate::sys;

/// Largest job accepted: the protocol's largest control frame, with room for the JSON around it.
const MAX_JOB: u32 = 8 * 1024 * 1024;

/// What a job made.
pub struct Made {
    /// Pid in the agent's pid namespace.
    pub pid: i32,
    /// Master of its terminal.
    pub terminal: Option<OwnedFd>,
}

/// Forks a worker for each job until the agent is gone. Returns the zygote's exit code.
pub fn serve(control: &OwnedFd) -> i32 {
    // Workers are not waited for: each tells its result itself, by its channel or by closing it.
    if sys::fork::reap_automatically(true).is_err() {
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
        let _ = sys::fork::fork(|| work(channel, fds));
    }
}

/// A worker's life. Returns its exit code.
fn work(mut channel: UnixStream, fds: Vec<OwnedFd>) -> i32 {
    let outcome = prepare()
        .and_then(|()| read_job(&mut channel))
        .and_then(|job| match job {
            Job::Create(job) => init::create(&job, fds),
            Job::Exec(job) => exec::start(&job, fds),
        });
    let (report, terminal) = match outcome {
        Ok(made) => (Report::Started { pid: made.pid }, made.terminal),
        Err(failure) => (Report::Failed(failure), None),
    };
    if send_report(&mut channel, &report, terminal.as_ref()).is_err() {
        if let Report::Started { pid } = report {
            // The agent has given up waiting; nobody would ever know this process.
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
    sys::fork::reap_automatically(false).map_err(|errno| failed("set SIGCHLD", errno))?;
    // The agent and the zygote are protected from the OOM killer; what they make is not.
    fs::write("/proc/self/oom_score_adj", "0")
        .map_err(|error| Failure::os(FailureKind::Other, "set oom_score_adj", &error))?;
    // Until exec, nobody in the container may trace a worker or reach the agent's program through it.
    nix::sys::prctl::set_dumpable(false).map_err(|errno| failed("set dumpable", errno))
}

fn read_job(channel: &mut UnixStream) -> Result<Job, Failure> {
    let failed = |error: std::io::Error| Failure::os(FailureKind::Other, "receive job", &error);
    let mut length = [0; 4];
    channel.read_exact(&mut length).map_err(failed)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_JOB {
        return Err(Failure::invalid(format!(
            "the process takes {length} bytes to describe"
        )));
    }
    let mut text = vec![0; length as usize];
    channel.read_exact(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| Failure::invalid(format!("job: {error}")))
}

fn send_report(
    channel: &mut UnixStream,
    report: &Report,
    terminal: Option<&OwnedFd>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = serde_json::to_vec(report)?;
    text.push(b'\n');
    let fds: Vec<_> = terminal.into_iter().map(AsFd::as_fd).collect();
    let sent = sys::socket::send(&*channel, &text, &fds)?;
    channel.write_all(&text[sent..])?;
    Ok(())
}
