//! A container and its init. Init waits at the gate with everything done but the exec.

use std::os::fd::{AsFd, OwnedFd};

use bulkhead_agent_protocol::message::{Failed, FailureKind};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use prost::Message;

use super::console::Terminal;
use super::entry::{Surroundings, take_on};
use super::gate::Gate;
use super::job::{CreateJob, MAX_REPORT};
use super::program::Program;
use super::worker::{Made, set_oom_score};
use super::{namespaces, rootfs, scheduling, standard_streams};
use crate::container::spec::{Prepared, prepare};
use crate::failure::Failure;
use crate::sys;

/// Exit codes of an init whose program could not be started after all, as shells have them.
const NOT_EXECUTED: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Exit code of an init that never came to its gate, or whose gate is gone.
const NOT_READY: i32 = 1;

/// What init says when it is at its gate; a terminal's master comes along. Anything else is a failure.
const READY: [u8; 1] = [0];

/// The descriptors of the job.
struct Descriptors {
    cgroup: OwnedFd,
    gate: OwnedFd,
    pids: Option<OwnedFd>,
    streams: Vec<OwnedFd>,
}

/// Creates the container of `job`; its init waits.
///
/// # Errors
/// The first step that failed, typed and in runc's words.
pub fn create(job: &CreateJob, fds: Vec<OwnedFd>) -> Result<Made, Failure> {
    let other = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    let Descriptors {
        cgroup,
        gate,
        pids,
        streams,
    } = Descriptors::sort(fds, job.joins_pids)?;
    let mut prepared = prepare(&job.spec, job.terminal)?;
    if let Some(root) = &job.root {
        prepared
            .spec
            .root_mut()
            .get_or_insert_default()
            .set_path(root.into());
    }
    let (process, linux) = (prepared.process()?, prepared.linux()?);
    set_oom_score(process.oom_score_adj().unwrap_or_default())?;
    let new = namespaces::join(linux)?;
    if let Some(member) = pids {
        nix::sched::setns(member, CloneFlags::CLONE_NEWPID)
            .map_err(other("join the other container's PID namespace"))?;
    }
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(other("make init's report socket"))?;
    // What the child takes; the parent drops its own copy.
    let mut childs = Some((theirs, gate, streams));
    let pid = sys::fork::fork_into_cgroup(&cgroup, new, || match childs.take() {
        Some((report, gate, streams)) => live(&prepared, streams, report, Gate::of(gate)),
        // Cannot be: this closure runs once, in the child, on its own copy.
        None => NOT_READY,
    })
    .map_err(|errno| {
        Failure::os(
            FailureKind::Cgroup,
            "start init in the container's cgroup",
            &errno,
        )
    })?;
    drop(childs);
    match hear(&ours) {
        Ok(terminal) => Ok(Made {
            pid: pid.as_raw(),
            terminal,
        }),
        Err(failure) => {
            // It has nothing left to do but end; its parent must not leave it as a zombie of the agent.
            // If it is not there any more, that is what is wanted.
            let _ = sys::kill(pid.as_raw(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(pid, None);
            Err(failure)
        }
    }
}

impl Descriptors {
    fn sort(fds: Vec<OwnedFd>, joins_pids: bool) -> Result<Self, Failure> {
        let missing = || Failure::invalid("create job without its descriptors");
        let mut fds = fds.into_iter();
        Ok(Self {
            cgroup: fds.next().ok_or_else(missing)?,
            gate: fds.next().ok_or_else(missing)?,
            pids: joins_pids.then(|| fds.next().ok_or_else(missing)).transpose()?,
            streams: fds.collect(),
        })
    }
}

/// Waits for init's word.
fn hear(report: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    let mut word = [0; MAX_REPORT];
    let (length, fds) = sys::socket::receive(report, &mut word)
        .map_err(|errno| Failure::os(FailureKind::Other, "hear of init", &errno))?;
    match &word[..length] {
        word if *word == READY => Ok(fds.into_iter().next()),
        [] => Err(Failure::new(
            FailureKind::Other,
            "create",
            "init ended before it was ready",
        )),
        word => Err(Failed::decode(word).map_or_else(
            |error| Failure::new(FailureKind::Other, "create", format!("init's report: {error}")),
            Failure::from,
        )),
    }
}

/// Init's life until its program takes over. Returns its exit code if that does not happen.
fn live(prepared: &Prepared, streams: Vec<OwnedFd>, report: OwnedFd, mut gate: Gate) -> i32 {
    let (program, terminal) = match become_init(prepared, streams) {
        Ok(ready) => ready,
        Err(failure) => {
            // If even this fails, the worker sees an init that ended.
            let _ = sys::socket::send(&report, &Failed::from(failure).encode_to_vec(), &[]);
            return NOT_READY;
        }
    };
    let fds: Vec<_> = terminal.iter().map(AsFd::as_fd).collect();
    if sys::socket::send(&report, &READY, &fds).is_err() {
        return NOT_READY;
    }
    drop((report, terminal));
    if !gate.wait() {
        return NOT_READY;
    }
    let failure = program.become_it();
    let code = match failure.kind() {
        FailureKind::ExecutableNotFound => NOT_FOUND,
        _ => NOT_EXECUTED,
    };
    gate.refuse(failure);
    code
}

/// Everything between the fork and the gate.
fn become_init(
    prepared: &Prepared,
    mut streams: Vec<OwnedFd>,
) -> Result<(Program, Option<OwnedFd>), Failure> {
    let (spec, process) = (&prepared.spec, prepared.process()?);
    nix::unistd::setsid().map_err(|errno| Failure::os(FailureKind::Other, "start a session", &errno))?;
    scheduling::assume(process)?;
    namespaces::furnish(spec)?;
    let root = rootfs::prepare(spec)?;
    rootfs::enter(&root, spec)?;
    drop(root);
    let mut master = None;
    if process.terminal() == Some(true) {
        let terminal = Terminal::open(process)?;
        terminal.mount_as_console()?;
        master = Some(terminal.master);
        streams = vec![terminal.peer];
    }
    standard_streams::assume(&streams)?;
    standard_streams::reopen_null()?;
    rootfs::seal(spec)?;
    let surroundings = Surroundings {
        seccomp: prepared.seccomp(),
        personality: prepared.personality,
    };
    Ok((take_on(process, &surroundings)?, master))
}
