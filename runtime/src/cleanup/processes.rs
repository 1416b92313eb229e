//! The processes of a sandbox whose owner is gone.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, pidfd_send_signal};

use super::{CleanupError, PAUSE};
use crate::process::ProcessIdentity;
use crate::sandbox::directory::{LOCK, open_lock};

/// How long the processes that the state file names have, before everything that holds the lock is looked
/// for: that is a look at every descriptor of every process.
const BEFORE_SEARCH: Duration = Duration::from_millis(500);
/// Between two searches.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// How the kernel cuts `containerd-shim-bulkhead-v2`.
const SHIM_COMM: &str = "containerd-shim";

/// Sends SIGKILL to that very process, if it still runs.
pub(super) fn kill(process: &ProcessIdentity) {
    if let Ok(Some(pidfd)) = process.pidfd() {
        // It may have ended by itself by now.
        pidfd_send_signal(pidfd, Signal::KILL).ok();
    }
}

/// Ends every process of the sandbox: those named, and then whatever holds the lifecycle lock, which each of
/// them inherited. When this succeeds, nothing holds it any more.
pub(super) fn end<'a>(
    directory: &Path,
    known: impl Iterator<Item = &'a ProcessIdentity>,
    until: Instant,
) -> Result<(), CleanupError> {
    let Ok(lock) = open_lock(directory) else {
        return Ok(());
    };
    known.for_each(kill);
    let mut next_search = Instant::now() + BEFORE_SEARCH;
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        let now = Instant::now();
        if now > until {
            return Err(CleanupError::Alive(directory.into()));
        }
        if now > next_search {
            holders(directory).iter().for_each(kill);
            next_search = now + SEARCH_PAUSE;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Whether one of those who have the lock open is a shim.
pub(super) fn shim_holds_lock(directory: &Path) -> bool {
    holders(directory).iter().any(|holder| {
        fs::read_to_string(format!("/proc/{}/comm", holder.pid)).is_ok_and(|comm| comm.trim() == SHIM_COMM)
    })
}

/// Who has the sandbox's lock open, but for this process.
fn holders(directory: &Path) -> Vec<ProcessIdentity> {
    let Ok(lock) = fs::metadata(directory.join(LOCK)) else {
        return Vec::new();
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| {
            let identity = ProcessIdentity::of(pid).ok()?;
            has_open(pid, &lock).then_some(identity)
        })
        .collect()
}

fn has_open(pid: u32, file: &Metadata) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    descriptors.into_iter().any(|descriptor| {
        fs::metadata(descriptor.path()).is_ok_and(|open| open.dev() == file.dev() && open.ino() == file.ino())
    })
}
