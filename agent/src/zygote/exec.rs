//! A further process in a container.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use bulkhead_agent_protocol::message::{Failed, FailureKind};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::pipe2;
use oci_spec::runtime::{LinuxSeccomp, Process};
use prost::Message;

use super::console::Terminal;
use super::entry::{Surroundings, take_on};
use super::job::ExecJob;
use super::program::Program;
use super::standard_streams;
use super::worker::{Made, set_oom_score};
use crate::container::spec::{exec_process, seccomp};
use crate::failure::Failure;
use crate::sys;

/// Exit code of a process that did not get as far as its program; its parent tells why.
const NOT_STARTED: i32 = 1;

/// The descriptors of the job.
struct Descriptors {
    init: OwnedFd,
    cgroup: OwnedFd,
    streams: Vec<OwnedFd>,
}

/// A job, read.
struct Exec {
    process: Process,
    seccomp: Option<LinuxSeccomp>,
    personality: Option<u64>,
}

/// Starts the process and returns when it has become its program, or not.
///
/// # Errors
/// The first step that failed, typed.
pub fn start(job: &ExecJob, fds: Vec<OwnedFd>) -> Result<Made, Failure> {
    let mut descriptors = Descriptors::sort(fds)?;
    let exec = Exec {
        process: exec_process(&job.process, job.terminal)?,
        seccomp: job.seccomp.as_deref().map(seccomp).transpose()?,
        personality: job.personality,
    };
    set_oom_score(exec.process.oom_score_adj().unwrap_or_default())?;
    let namespaces = CloneFlags::from_bits_retain(job.namespaces).difference(CloneFlags::CLONE_NEWCGROUP);
    nix::sched::setns(&descriptors.init, namespaces)
        .map_err(|errno| Failure::os(FailureKind::Other, "join the container's namespaces", &errno))?;
    let mut master = None;
    if job.terminal {
        let terminal = Terminal::open(&exec.process)?;
        master = Some(terminal.master);
        descriptors.streams = vec![terminal.peer];
    }
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| Failure::os(FailureKind::Other, "make report pipe", &errno))?;
    let mut ends = Some((reader, File::from(writer)));
    let pid = sys::fork::fork_into_cgroup(&descriptors.cgroup, CloneFlags::empty(), || {
        // `take` cannot fail: this closure runs once, in the child, on its own copy.
        let Some((_, mut report)) = ends.take() else {
            return NOT_STARTED;
        };
        let failure = match become_process(&exec, &descriptors) {
            Ok(program) => program.become_it(),
            Err(failure) => failure,
        };
        // If even this fails, the parent sees an empty report and a process that exits at once.
        let _ = report.write_all(&Failed::from(failure).encode_to_vec());
        NOT_STARTED
    })
    .map_err(|errno| {
        Failure::os(
            FailureKind::Cgroup,
            "start a process in the container's cgroup",
            &errno,
        )
    })?;
    let Some((reader, writer)) = ends.take() else {
        return Err(Failure::os(FailureKind::Other, "read report pipe", &Errno::EBADF));
    };
    drop(writer);
    let mut report = Vec::new();
    File::from(reader)
        .read_to_end(&mut report)
        .map_err(|error| Failure::os(FailureKind::Other, "read report pipe", &error))?;
    if report.is_empty() {
        return Ok(Made {
            pid: pid.as_raw(),
            terminal: master,
        });
    }
    // It has nothing left to do but end; its parent must not leave it as a zombie of the agent.
    // It cannot be anybody else's by now, so there is nothing to learn from the outcome.
    let _ = nix::sys::wait::waitpid(pid, None);
    Err(Failed::decode(&report[..]).map_or_else(
        |error| Failure::new(FailureKind::Other, "start", format!("report: {error}")),
        Failure::from,
    ))
}

impl Descriptors {
    fn sort(fds: Vec<OwnedFd>) -> Result<Self, Failure> {
        let mut fds = fds.into_iter();
        match (fds.next(), fds.next()) {
            (Some(init), Some(cgroup)) => Ok(Self {
                init,
                cgroup,
                streams: fds.collect(),
            }),
            _ => Err(Failure::invalid("exec job without its descriptors")),
        }
    }
}

/// Everything between the fork and the program.
fn become_process(exec: &Exec, descriptors: &Descriptors) -> Result<Program, Failure> {
    let other = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    // Only now: from within it, the kernel lets nobody be born in a cgroup by way of one outside.
    nix::sched::setns(&descriptors.init, CloneFlags::CLONE_NEWCGROUP)
        .map_err(other("join the container's cgroup namespace"))?;
    nix::unistd::setsid().map_err(other("start a session"))?;
    standard_streams::assume(&descriptors.streams)?;
    let surroundings = Surroundings {
        seccomp: exec.seccomp.as_ref(),
        personality: exec.personality,
    };
    take_on(&exec.process, &surroundings)
}
