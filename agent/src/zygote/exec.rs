//! A further process in a container. Ours rather than the library's, which forgets the container's
//! seccomp filter for execs and forks twice as often (docs/agent.md has the measurement).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;
use nix::unistd::pipe2;

use super::credentials;
use super::job::ExecJob;
use super::program::Program;
use super::worker::Made;
use crate::failure::Failure;
use crate::sys;

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Exit code of a process that did not get as far as its program; its parent tells why.
const NOT_STARTED: i32 = 1;

/// The descriptors of the job.
struct Descriptors {
    init: OwnedFd,
    cgroup: OwnedFd,
    streams: Vec<OwnedFd>,
}

/// Starts the process and returns when it has become its program, or not.
///
/// # Errors
/// The first step that failed, typed.
pub fn start(job: &ExecJob, fds: Vec<OwnedFd>) -> Result<Made, Failure> {
    let mut descriptors = Descriptors::sort(fds)?;
    if let Some(score) = job.process.oom_score_adj() {
        // Before the namespaces are joined: afterwards /proc is the container's.
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| Failure::os(FailureKind::Other, "set oom_score_adj", &error))?;
    }
    let namespaces = CloneFlags::from_bits_retain(job.namespaces).difference(CloneFlags::CLONE_NEWCGROUP);
    nix::sched::setns(&descriptors.init, namespaces)
        .map_err(|errno| Failure::os(FailureKind::Other, "join the container's namespaces", &errno))?;
    let terminal = if job.process.terminal() == Some(true) {
        let (master, peer) = open_terminal(job)?;
        descriptors.streams = vec![peer];
        Some(master)
    } else {
        None
    };
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| Failure::os(FailureKind::Other, "make report pipe", &errno))?;
    let mut ends = Some((reader, File::from(writer)));
    let pid = sys::fork::fork_into_cgroup(&descriptors.cgroup, || {
        // `take` cannot fail: this closure runs once, in the child, on its own copy.
        let Some((_, mut report)) = ends.take() else {
            return NOT_STARTED;
        };
        let failure = match become_process(job, &descriptors) {
            Ok(program) => program.become_it(),
            Err(failure) => failure,
        };
        // If even this fails, the parent sees an empty report and a process that exits at once.
        let _ = serde_json::to_vec(&failure).map(|text| report.write_all(&text));
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
            terminal,
        });
    }
    // It has nothing left to do but end; its parent must not leave it as a zombie of the agent.
    let _ = nix::sys::wait::waitpid(pid, None);
    Err(serde_json::from_slice(&report)
        .unwrap_or_else(|error| Failure::new(FailureKind::Other, "start", format!("report: {error}"))))
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
fn become_process(job: &ExecJob, descriptors: &Descriptors) -> Result<Program, Failure> {
    let other = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    // Only now: from within it, the kernel lets nobody be born in a cgroup by way of one outside.
    nix::sched::setns(&descriptors.init, CloneFlags::CLONE_NEWCGROUP)
        .map_err(other("join the container's cgroup namespace"))?;
    nix::unistd::setsid().map_err(other("start a session"))?;
    match &descriptors.streams[..] {
        [terminal] => {
            sys::ioctl::set_controlling_terminal(terminal)
                .map_err(|errno| Failure::os(FailureKind::Pty, "set controlling terminal", &errno))?;
            sys::set_stdio([terminal.as_fd(), terminal.as_fd(), terminal.as_fd()])
        }
        [stdin, stdout, stderr] => sys::set_stdio([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        _ => Err(Errno::EBADF),
    }
    .map_err(other("set standard streams"))?;
    sys::fork::reset_signals().map_err(other("reset signals"))?;
    if let Some(domain) = job.personality {
        sys::personality(domain).map_err(other("set personality"))?;
    }
    let process = &job.process;
    // As root first, as runc does: the directory may be open to root alone.
    let entered = enter(process.cwd());
    if !matches!(entered, Ok(()) | Err(Errno::EACCES | Errno::EPERM)) {
        return Err(bad_cwd(process.cwd(), entered.err().unwrap_or(Errno::EACCES)));
    }
    credentials::assume(process, job.seccomp.as_ref())?;
    if entered.is_err() {
        enter(process.cwd()).map_err(|errno| bad_cwd(process.cwd(), errno))?;
    }
    let program = Program::find(process)?;
    // The program gets 0 to 2 and nothing of ours.
    sys::close_on_exec_from(3).map_err(other("close descriptors"))?;
    Ok(program)
}

/// Changes into `cwd` and makes sure that it is inside the root: `/proc/self/fd/N` could name a
/// directory outside of it (CVE-2024-21626).
fn enter(cwd: &Path) -> nix::Result<()> {
    nix::unistd::chdir(cwd)?;
    let inside = nix::unistd::getcwd()?.is_absolute();
    if inside { Ok(()) } else { Err(Errno::ENOENT) }
}

/// In runc's words.
pub fn bad_cwd(cwd: &Path, errno: Errno) -> Failure {
    use crate::failure::OsError;
    let message = format!(
        "chdir to cwd ({:?}) set in config.json failed: {}",
        cwd.display().to_string(),
        errno.words()
    );
    Failure::new(FailureKind::BadCwd, "chdir", message).with_errno(errno as i32)
}

/// A pseudo terminal of the container's own /dev/pts, so that its name means something there.
fn open_terminal(job: &ExecJob) -> Result<(OwnedFd, OwnedFd), Failure> {
    let failed = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Pty, stage, &errno);
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let master = nix::fcntl::open("/dev/pts/ptmx", flags, Mode::empty())
        .map_err(failed("open /dev/pts/ptmx of the container"))?;
    let kind = fstatfs(&master)
        .map_err(failed("examine /dev/pts/ptmx"))?
        .filesystem_type();
    if kind.0 != DEVPTS_MAGIC {
        return Err(failed("open /dev/pts/ptmx: not a pseudo terminal")(Errno::ENODEV));
    }
    let peer = sys::ioctl::open_terminal_peer(&master).map_err(failed("open the terminal's peer"))?;
    let owner = nix::unistd::Uid::from_raw(job.process.user().uid());
    nix::unistd::fchown(&peer, Some(owner), None).map_err(failed("give the terminal to the user"))?;
    if let Some(size) = job.process.console_size() {
        // Before the process exists, so that it never sees another.
        let cells = |length: u64| u16::try_from(length).unwrap_or(u16::MAX);
        sys::ioctl::set_window_size(&master, cells(size.width()), cells(size.height()))
            .map_err(failed("set the terminal's size"))?;
    }
    Ok((master, peer))
}
