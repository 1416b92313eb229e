//! The other side of a launch: what a helper does with what it was given. For the helpers' own programs.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
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

/// Starts a child that the kernel kills when this, single, thread ends. It inherits every descriptor that
/// is not close-on-exec.
#[allow(unsafe_code)]
pub fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    let parent = rustix::process::getpid();
    let bind = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was asked for.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: two system calls, no allocation, no locks.
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
