//! The one task that waits for a process, and releases what the process used.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::{Exit, Resource};

/// How long a helper whose owner has let go may take to end by itself: the guest's 2 seconds to write
/// back and power off, and the same again for a busy host.
const FAREWELL: Duration = Duration::from_secs(4);
/// How long the end of the runtime may be held up to see a killed process off.
const LAST_LOOK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// The process, and the processes that it started and that end with it, by pidfd.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) pidfd: OwnedFd,
    pub(super) children: Mutex<Vec<Arc<OwnedFd>>>,
}

/// Everything the reaping task works with.
pub(super) struct Reaper {
    pub(super) family: Arc<Family>,
    /// Resolves to `Ok` on detachment, to `Err` when the owner has let go.
    pub(super) owner: oneshot::Receiver<()>,
    pub(super) exit: watch::Sender<Option<Exit>>,
    pub(super) resources: Vec<Resource>,
}

/// Kills the family if the runtime ends under the task, and holds the resources until that is done.
struct Custody {
    family: Arc<Family>,
    resources: Vec<Resource>,
    armed: bool,
}

impl Family {
    pub(super) fn children(&self) -> Vec<Arc<OwnedFd>> {
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// SIGKILL to all: children first, so that their parent can see how they ended.
    pub(super) fn kill(&self) -> io::Result<()> {
        for child in self.children() {
            kill(child.as_fd())?;
        }
        kill(self.pidfd.as_fd())
    }
}

/// A process that has gone is as dead as was asked for.
fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    match pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Reaper {
    pub(super) async fn run(self) {
        let Self {
            family,
            mut owner,
            exit: publish,
            resources,
        } = self;
        let mut custody = Custody {
            family: Arc::clone(&family),
            resources,
            armed: true,
        };
        let mut end = std::pin::pin!(ended(&family));
        let exit = tokio::select! {
            exit = &mut end => exit,
            farewell = &mut owner => {
                if farewell.is_ok() {
                    custody.armed = false;
                } else if let Ok(exit) = tokio::time::timeout(FAREWELL, &mut end).await {
                    return custody.close(&publish, exit);
                } else if let Err(error) = family.kill() {
                    tracing::warn!(%error, "cannot kill a process whose owner has gone");
                }
                end.await
            }
        };
        custody.close(&publish, exit);
    }
}

impl Custody {
    /// All is over: releases the resources, and only then tells the world.
    fn close(mut self, publish: &watch::Sender<Option<Exit>>, exit: Exit) {
        self.armed = false;
        self.resources.clear();
        publish.send_replace(Some(exit));
    }
}

impl Drop for Custody {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Err(error) = self.family.kill() {
            tracing::warn!(%error, "cannot kill a process at the end of the runtime");
            return;
        }
        for pidfd in self
            .family
            .children()
            .iter()
            .map(|fd| fd.as_fd())
            .chain([self.family.pidfd.as_fd()])
        {
            let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            if let Err(error) = poll(&mut polled, Some(&LAST_LOOK)) {
                tracing::warn!(%error, "cannot see a killed process off");
            }
        }
    }
}

/// Waits until the process and all its known children have ended.
async fn ended(family: &Family) -> Exit {
    let exit = if gone(family.pidfd.as_fd()).await {
        reap(family.pidfd.as_fd())
    } else {
        Exit::Lost
    };
    for child in family.children() {
        gone(child.as_fd()).await;
    }
    exit
}

/// Waits for a pidfd to say that its process has ended.
async fn gone(pidfd: BorrowedFd<'_>) -> bool {
    let readable = async { registered(pidfd)?.readable().await.map(drop) };
    match readable.await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(%error, "cannot watch a process");
            false
        }
    }
}

#[allow(unsafe_code)]
fn registered(pidfd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a borrowed descriptor is open and the same for as long as it is borrowed.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

fn reap(pidfd: BorrowedFd<'_>) -> Exit {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Lost,
                };
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return Exit::Lost,
        }
    }
}
