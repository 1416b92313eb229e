//! A container and its init. Init waits at the gate with everything done but the exec.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use bulkhead_agent_protocol::message::{Failed, FailureKind};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use prost::Message;

use super::console::Terminal;
use super::entry::{Surroundings, take_on};
use super::gate::Gate;
use super::groundwork::{Groundwork, OomScore};
use super::hooks::StartHooks;
use super::job::{CreateJob, DeviceNumber, MAX_REPORT, Work};
use super::program::Program;
use super::ready_made::Cover;
use super::worker::{self, Made, set_oom_score};
use super::{namespaces, rootfs, scheduling, standard_streams};
use crate::container::spec::{Prepared, prepare};
use crate::failure::Failure;
use crate::sys;

/// Exit codes of an init whose program could not be started after all, as shells have them.
const NOT_EXECUTED: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Exit code of an init one of whose hooks failed: runc's.
const HOOK_FAILED: i32 = 255;

/// Exit code of an init that never came to its gate, or whose gate is gone.
const NOT_READY: i32 = 1;

/// What init says when it is at its gate, where a terminal's master comes along; and before that, if it is made ahead,
/// when it waits for its job. Anything else is a failure.
const READY: [u8; 1] = [0];

/// What a worker says of an init that has been made ahead and waits for its job.
pub const AHEAD: [u8; 1] = [0];

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
    let prepared = prepare_job(job)?;
    let (process, linux) = (prepared.process()?, prepared.linux()?);
    set_oom_score(process.oom_score_adj().unwrap_or_default())?;
    let new = namespaces::join(linux)?;
    if let Some(member) = pids {
        nix::sched::setns(member, CloneFlags::CLONE_NEWPID)
            .map_err(other("join the other container's PID namespace"))?;
    }
    be_born(&cgroup, new, (gate, streams), |report, (gate, streams)| {
        let state = job.hook_state.as_deref();
        match Groundwork::lay() {
            Ok(groundwork) => live(&prepared, groundwork, state, streams, report, Gate::of(gate)),
            Err(failure) => refuse(&report, failure),
        }
    })
    .and_then(Newborn::until_ready)
}

/// Makes an init before anybody has asked for its container, in [`namespaces::USUAL`]. It waits for its job on
/// `channel`, and this process, once it has said there that all is well, for it.
///
/// # Errors
/// The first step that failed, typed.
pub fn create_ahead(mut channel: &UnixStream, fds: Vec<OwnedFd>) -> Result<Made, Failure> {
    let other = |error: std::io::Error| Failure::os(FailureKind::Other, "make an init ahead", &error);
    let Descriptors { cgroup, gate, .. } = Descriptors::sort(fds, false)?;
    let inits = channel.try_clone().map_err(other)?;
    let newborn = be_born(
        &cgroup,
        namespaces::USUAL,
        (inits, gate),
        |report, (channel, gate)| match get_ready(&report) {
            Ok((score, groundwork)) => match hear_job(channel, score) {
                Ok(Some((job, prepared, streams))) => {
                    let state = job.hook_state.as_deref();
                    live(&prepared, groundwork, state, streams, report, Gate::of(gate))
                }
                // Nobody wants it any more.
                Ok(None) => NOT_READY,
                Err(failure) => refuse(&report, failure),
            },
            Err(failure) => refuse(&report, failure),
        },
    )?;
    let newborn = newborn.until_ahead()?;
    channel.write_all(&AHEAD).map_err(other)?;
    newborn.until_ready()
}

/// Of an init that is made ahead: what it can do before it knows its container. Says when it has.
fn get_ready(report: &OwnedFd) -> Result<(OomScore, Groundwork), Failure> {
    let score = OomScore::usual()?;
    let groundwork = Groundwork::lay_with_mounts()?;
    sys::socket::send(report, &READY, &[])
        .map_err(|errno| Failure::os(FailureKind::Other, "report", &errno))?;
    Ok((score, groundwork))
}

/// Of an init that was made ahead: what it is to be, and its streams. `None` if there will be no job.
fn hear_job(
    channel: UnixStream,
    score: OomScore,
) -> Result<Option<(CreateJob, Prepared, Vec<OwnedFd>)>, Failure> {
    let Some((Work::Create(job), streams)) = worker::receive_job(channel)? else {
        return Ok(None);
    };
    // It may have been saved with its VM since.
    sys::guards::renew()
        .map_err(|errno| Failure::os(FailureKind::Other, "renew the guards of the stack", &errno))?;
    let prepared = prepare_job(&job)?;
    score.set(prepared.process()?.oom_score_adj().unwrap_or_default())?;
    Ok(Some((job, prepared, streams)))
}

fn prepare_job(job: &CreateJob) -> Result<Prepared, Failure> {
    let mut prepared = prepare(&job.spec, job.terminal)?;
    if let Some(root) = &job.root {
        prepared
            .spec
            .root_mut()
            .get_or_insert_default()
            .set_path(root.into());
    }
    if prepared.spec.hostname().is_none() && !job.hostname.is_empty() {
        prepared.spec.set_hostname(Some(job.hostname.clone()));
    }
    let linux = prepared.spec.linux_mut().as_mut();
    for device in linux
        .and_then(|linux| linux.devices_mut().as_mut())
        .into_iter()
        .flatten()
    {
        let is_it = |number: &&DeviceNumber| *device.path() == Path::new(&number.path);
        if let Some(number) = job.numbers.iter().find(is_it) {
            device
                .set_major(number.major.into())
                .set_minor(number.minor.into());
        }
    }
    Ok(prepared)
}

/// An init that has been forked, and is this process's child.
struct Newborn {
    pid: Pid,
    report: OwnedFd,
}

/// Forks an init that takes `own`, of which this process keeps nothing.
fn be_born<T>(
    cgroup: &OwnedFd,
    namespaces: CloneFlags,
    own: T,
    life: impl FnOnce(OwnedFd, T) -> i32,
) -> Result<Newborn, Failure> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|errno| Failure::os(FailureKind::Other, "make init's report socket", &errno))?;
    let mut childs = Some((theirs, own));
    let pid = sys::fork::fork_into_cgroup(cgroup, namespaces, || match childs.take() {
        Some((report, own)) => life(report, own),
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
    Ok(Newborn { pid, report: ours })
}

impl Newborn {
    /// Waits until it has done what it can do ahead.
    fn until_ahead(self) -> Result<Self, Failure> {
        self.word().map(|_| self)
    }

    fn until_ready(self) -> Result<Made, Failure> {
        let terminal = self.word()?;
        Ok(Made {
            pid: self.pid.as_raw(),
            terminal,
        })
    }

    fn word(&self) -> Result<Option<OwnedFd>, Failure> {
        hear(&self.report).inspect_err(|_| {
            // It has nothing left to do but end; its parent must not leave it as a zombie of the agent.
            // If it is not there any more, that is what is wanted.
            let _ = sys::kill(self.pid.as_raw(), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(self.pid, None);
        })
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

/// Init ends before it was ready.
fn refuse(report: &OwnedFd, failure: Failure) -> i32 {
    // If even this fails, the worker sees an init that ended.
    let _ = sys::socket::send(report, &Failed::from(failure).encode_to_vec(), &[]);
    NOT_READY
}

/// Init's life until its program takes over. Returns its exit code if that does not happen.
fn live(
    prepared: &Prepared,
    groundwork: Groundwork,
    hook_state: Option<&[u8]>,
    streams: Vec<OwnedFd>,
    report: OwnedFd,
    mut gate: Gate,
) -> i32 {
    let ready = become_init(prepared, groundwork, streams)
        .and_then(|ready| Ok((ready, StartHooks::of(&prepared.spec, hook_state)?)));
    let ((program, terminal), hooks) = match ready {
        Ok(ready) => ready,
        Err(failure) => {
            return refuse(&report, failure);
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
    if let Err(failure) = hooks.run() {
        gate.refuse(failure);
        return HOOK_FAILED;
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
    groundwork: Groundwork,
    mut streams: Vec<OwnedFd>,
) -> Result<(Program, Option<OwnedFd>), Failure> {
    let (spec, process) = (&prepared.spec, prepared.process()?);
    scheduling::assume(process)?;
    namespaces::furnish(spec)?;
    let root = rootfs::prepare(spec, groundwork.mounts)?;
    let cover = groundwork.cover.map(Cover::take).transpose()?;
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
    rootfs::seal(spec, cover)?;
    let surroundings = Surroundings {
        seccomp: prepared.seccomp(),
        personality: prepared.personality,
    };
    Ok((take_on(process, &surroundings)?, master))
}
