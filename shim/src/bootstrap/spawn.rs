//! Forks the server and learns whether it came up.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use displaydoc::Display;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use thiserror::Error;

use crate::args::Args;
use crate::handoff::Handoff;

/// The server's listening socket.
pub const LISTENER_FD: RawFd = 3;
/// Where the server says that it serves, with [`READY`]; anything else on it is why it does not.
pub const STARTUP_FD: RawFd = 4;
/// One byte that no error text starts with.
pub const READY: u8 = 0;

/// `CLOSE_RANGE_CLOEXEC`.
const CLOSE_ON_EXEC: libc::c_int = 1 << 2;
/// Fds that are dup'ed to fixed numbers are first moved above those, so that none overwrites another.
const ABOVE_FIXED: RawFd = 10;
/// The server has only to parse its arguments and make a runtime. A host that swaps may be slow.
const STARTUP_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);
/// The server's last words that `start` repeats, at most.
const LAST_WORDS: u64 = 4096;
/// Least protected value of `oom_score_adj`.
const MAX_OOM_SCORE_ADJ: i32 = 1000;

/// Why there is no server.
#[derive(Debug, Display, Error)]
pub enum SpawnError {
    /// cannot start the shim's server: {what}: {source}
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// the shim's server did not come up within 20 s
    TimedOut,
    /// the shim's server ended at once: {0}
    Died(String),
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError::Io { what, source }
}

/// Starts the server on `listener` and returns its pid once it serves. It inherits neither stdout nor
/// stderr: containerd reads ours until the last writer has closed them.
///
/// # Errors
/// It could not be started, or ended at once; then nothing of it is left.
pub fn server(args: &Args, listener: &UnixListener, handoff: Handoff) -> Result<u32, SpawnError> {
    let (mut startup, theirs) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map(|(read, write)| (fs::File::from(read), write))
        .map_err(|errno| failed("pipe")(errno.into()))?;
    let listener = above_fixed(listener.as_fd()).map_err(failed("dup"))?;
    let theirs = above_fixed(theirs.as_fd()).map_err(failed("dup"))?;
    let stdin = handoff.into_file().map_err(failed("handoff"))?;
    let words = theirs.try_clone().map_err(failed("dup"))?;

    let mut command = Command::new(own_binary());
    command.args([
        "-namespace",
        &args.namespace,
        "-id",
        &args.id,
        "-address",
        &args.address,
    ]);
    command.args(["-publish-binary", &args.publish_binary]);
    if args.debug {
        command.arg("-debug");
    }
    // Until it has its log, the server's stderr is the startup pipe: a panic there is told by `start`.
    command.stdin(stdin).stdout(Stdio::null()).stderr(words);
    pass_fds(
        &mut command,
        [
            (listener.as_raw_fd(), LISTENER_FD),
            (theirs.as_raw_fd(), STARTUP_FD),
        ],
    );
    let mut child = command.spawn().map_err(failed("exec"))?;
    drop((command, listener, theirs));

    match await_ready(&mut startup) {
        Ok(()) => Ok(child.id()),
        Err(error) => {
            end(&mut child);
            Err(error)
        }
    }
}

/// Makes this process, and so the server it forks, a little more likely to be killed than containerd when
/// the host has no memory left: `min(containerd's + 1, 1000)`, as runc's shim does.
///
/// # Errors
/// /proc cannot be read or written.
pub fn adjust_oom_score() -> io::Result<()> {
    let parents = fs::read_to_string(format!("/proc/{}/oom_score_adj", nix::unistd::getppid()))?;
    let score: i32 = parents.trim().parse().map_err(io::Error::other)?;
    fs::write(
        "/proc/self/oom_score_adj",
        (score + 1).min(MAX_OOM_SCORE_ADJ).to_string(),
    )
}

/// Gives this process group, and so the server, a core-scheduling cookie of its own, if containerd was
/// told to (`SCHED_CORE`).
///
/// # Errors
/// The kernel has no core scheduling.
pub fn create_core_scheduling_group() -> io::Result<()> {
    const PR_SCHED_CORE: libc::c_int = 62;
    const CREATE: libc::c_ulong = 1;
    const PROCESS_GROUP: libc::c_ulong = 2;
    let this_process: libc::c_ulong = 0;
    // SAFETY: prctl with integers only; it touches no memory of ours.
    #[allow(unsafe_code)]
    let result = unsafe { libc::prctl(PR_SCHED_CORE, CREATE, this_process, PROCESS_GROUP, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Moves this process, and so the server, into `cgroup`: in every mounted v1 hierarchy, or the unified one.
///
/// # Errors
/// There is no such cgroup and it cannot be made.
pub fn join_cgroup(cgroup: &str) -> io::Result<()> {
    let mut joined = false;
    let root = Path::new("/sys/fs/cgroup");
    let relative = cgroup.trim_start_matches('/');
    let join = |hierarchy: &Path| -> io::Result<()> {
        let dir = hierarchy.join(relative);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
    };
    if root.join("cgroup.controllers").exists() {
        return join(root);
    }
    for entry in fs::read_dir(root)?.flatten() {
        // Hierarchies that were mounted together have symlinks for each controller.
        let is_hierarchy = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // A new cpuset has no processors and takes no process; a shim has no use for one.
        if is_hierarchy && !entry.file_name().to_string_lossy().contains("cpuset") {
            join(&entry.path())?;
            joined = true;
        }
    }
    if joined {
        Ok(())
    } else {
        Err(io::Error::other(
            "no cgroup hierarchy is mounted at /sys/fs/cgroup",
        ))
    }
}

fn own_binary() -> PathBuf {
    // The path makes `ps` show our name; the link works even where the file has been replaced.
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

fn above_fixed(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_FIXED))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// The child gets each fd under its fixed number, and a session of its own: signals to containerd's
/// process group must not reach it.
fn pass_fds(command: &mut Command, fds: [(RawFd, RawFd); 2]) {
    let in_child = move || {
        nix::unistd::setsid()?;
        // What our caller left open is not the server's to hold.
        // SAFETY: marks descriptors, by number; nothing here relies on any of them surviving exec.
        #[allow(unsafe_code)]
        let marked = unsafe { libc::close_range(3, libc::c_uint::MAX, CLOSE_ON_EXEC) };
        if marked < 0 {
            return Err(io::Error::last_os_error());
        }
        for (from, to) in fds {
            // SAFETY: dup2 of integers; `to` is no descriptor that anything in this child uses.
            #[allow(unsafe_code)]
            if unsafe { libc::dup2(from, to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it only calls setsid, close_range and dup2, which are async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(in_child);
    }
}

fn await_ready(startup: &mut fs::File) -> Result<(), SpawnError> {
    let timeout = PollTimeout::try_from(STARTUP_DEADLINE).unwrap_or(PollTimeout::MAX);
    let ready = poll(&mut [PollFd::new(startup.as_fd(), PollFlags::POLLIN)], timeout)
        .map_err(|errno| failed("poll")(errno.into()))?;
    if ready == 0 {
        return Err(SpawnError::TimedOut);
    }
    let mut first = [READY + 1];
    if startup.read(&mut first).map_err(failed("read"))? == 1 && first[0] == READY {
        return Ok(());
    }
    let mut words = vec![first[0]];
    startup
        .take(LAST_WORDS)
        .read_to_end(&mut words)
        .map_err(failed("read"))?;
    let text = String::from_utf8_lossy(&words);
    let line = text
        .trim_matches(|c: char| c.is_whitespace() || c.is_control())
        .replace('\n', "; ");
    Err(SpawnError::Died(if line.is_empty() {
        "it said nothing".to_owned()
    } else {
        line
    }))
}

fn end(child: &mut Child) {
    // It is dead already, or we want it to be; either way it is reaped.
    drop(child.kill());
    drop(child.wait());
}
