//! The other side of a launch: what a helper does with what it was given. For the helpers' own programs.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{
    PidfdFlags, Resource, Rlimit, Signal, getpid, pidfd_open, set_parent_process_death_signal, setrlimit,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::launch::CONFIG_FD;

/// A configuration is paths and numbers; the kernel itself limits argument lists to 2 MiB.
const MAX_CONFIG: u64 = 4 << 20;

/// Takes ownership of a descriptor that the launch put there. It will not survive another exec.
///
/// Each number may be taken once.
#[allow(unsafe_code)]
pub fn take(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only looked at; a number that is not open gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let flags = fcntl_getfd(borrowed)?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, as just seen, and put there for this program by its launch: nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Reads the configuration.
pub fn config<T: DeserializeOwned>() -> io::Result<T> {
    let mut text = Vec::new();
    fs::File::from(take(CONFIG_FD)?)
        .take(MAX_CONFIG)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Starts a child that the kernel kills when this, single, thread ends. It inherits every descriptor that is not
/// close-on-exec. `confine` runs in the child right before its program does, and makes system calls only.
///
/// The child may be in another PID namespace, where its parent has no number: it knows it by pidfd.
#[allow(unsafe_code)]
pub fn spawn_bound(
    command: &mut Command,
    confine: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    let parent = pidfd_open(getpid(), PidfdFlags::empty())?;
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was asked for.
        let mut polled = [PollFd::new(&parent, PollFlags::IN)];
        if poll(&mut polled, Some(&Timespec::default()))? > 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        confine()
    };
    // SAFETY: system calls only, no allocation, no locks.
    unsafe { command.pre_exec(bind) };
    command.spawn()
}

/// Where a helper belongs, and what it may cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct Placement {
    /// `cgroup.procs` files to enter, one per hierarchy.
    pub cgroup_procs: Vec<PathBuf>,
    /// `oom_score_adj`, if it is to change.
    pub oom_score_adj: Option<i32>,
}

impl Placement {
    /// Moves the calling process. A core dump would hold guest memory: there is none.
    pub fn enter(&self) -> io::Result<()> {
        for file in &self.cgroup_procs {
            // 0 stands for the writer.
            fs::write(file, "0").map_err(|error| named(&error, file))?;
        }
        if let Some(score) = self.oom_score_adj {
            let file = Path::new("/proc/self/oom_score_adj");
            fs::write(file, score.to_string()).map_err(|error| named(&error, file))?;
        }
        // Nor does one hold any memory where core dumps are piped to a program, which this limit does not keep
        // the kernel from.
        let file = Path::new("/proc/self/coredump_filter");
        fs::write(file, "0").map_err(|error| named(&error, file))?;
        Ok(setrlimit(
            Resource::Core,
            Rlimit {
                current: Some(0),
                maximum: Some(0),
            },
        )?)
    }
}

fn named(error: &io::Error, file: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}
