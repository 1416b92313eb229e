//! The owner's grip on one process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::identity::{ProcessIdentity, parent_of};
use super::reaper::{Family, Reaper};
use super::report::{Report, Reports};
use super::watchdog::{Order, Watchdog};
use super::{Exit, ProcessError, Resource};

/// How long a helper may take to confirm that it no longer watches its owner: it does nothing else.
const DETACH_DEADLINE: Duration = Duration::from_secs(1);

/// Owns one process. Dropping it ends the process: one with a watchdog in order, by closing the pipe;
/// one without, or one that was never ready, by SIGKILL. The rest is left to the reaping task.
#[derive(Debug)]
pub struct ProcessHandle {
    program: PathBuf,
    identity: ProcessIdentity,
    family: Arc<Family>,
    watchdog: Option<Watchdog>,
    reports: Option<Reports>,
    /// False until the helper has said that it does its work.
    ready: bool,
    exit: ExitWatch,
    /// Dropped with the handle; sent on only by `disarm`.
    owner: Option<oneshot::Sender<()>>,
}

/// Sees a process's end without owning it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExitWatch(watch::Receiver<Option<Exit>>);

/// A process that outlives its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detached {
    /// Who it is.
    pub identity: ProcessIdentity,
}

/// What a launch has started.
pub(super) struct Child {
    pub(super) program: PathBuf,
    pub(super) pid: Pid,
    pub(super) watchdog: Option<Watchdog>,
    pub(super) reports: Option<Reports>,
    pub(super) resources: Vec<Resource>,
}

/// A pidfd of our own child.
fn open(child: Pid) -> io::Result<OwnedFd> {
    let child = rustix::process::Pid::from_raw(child.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(child, PidfdFlags::empty())?)
}

/// Ends a child that cannot be watched, for want of descriptors. Its number is its own until it is reaped here.
fn abandon(child: Pid) {
    let ended = kill(child, Signal::SIGKILL).and_then(|()| waitpid(child, None));
    if let Err(error) = ended {
        tracing::error!(%child, %error, "a process could be neither watched nor killed");
    }
}

impl ProcessHandle {
    /// Takes charge of a child just started, which nobody has reaped: its number is still its own.
    pub(super) fn adopt(child: Child) -> io::Result<Self> {
        let Child {
            program,
            pid,
            watchdog,
            reports,
            resources,
        } = child;
        let pidfd = match open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                abandon(pid);
                return Err(error);
            }
        };
        let family = Arc::new(Family {
            pidfd,
            children: Mutex::default(),
        });
        let (owner, owner_gone) = oneshot::channel();
        let (publish, exit) = watch::channel(None);
        let reaper = Reaper {
            family: Arc::clone(&family),
            owner: owner_gone,
            exit: publish,
            resources,
        };
        tokio::spawn(reaper.run());
        let identity = ProcessIdentity::of(pid.as_raw().unsigned_abs())?;
        let ready = reports.is_none();
        Ok(Self {
            program,
            identity,
            family,
            watchdog,
            reports,
            ready,
            exit: ExitWatch(exit),
            owner: Some(owner),
        })
    }

    /// Its number in the host's PID namespace.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Its number and start time, for the state file.
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// SIGKILL, at once, without waiting. Killing what has ended is no error.
    pub fn kill(&self) -> Result<(), ProcessError> {
        tracing::debug!(pid = self.pid(), program = %self.program.display(), "kill");
        self.family.kill().map_err(|source| ProcessError::Control {
            action: "kill",
            pid: self.pid(),
            source,
        })
    }

    /// Asks it to end in order, without waiting. Without a watchdog pipe there is nobody to ask: an error.
    pub fn drain(&self) -> Result<(), ProcessError> {
        tracing::debug!(pid = self.pid(), program = %self.program.display(), "drain");
        self.say(Order::Drain, "drain")
    }

    /// Waits for its end. Everything it used has been released by then.
    pub async fn wait(&self) -> Exit {
        self.exit.wait().await
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Option<Exit> {
        self.exit.try_wait()
    }

    /// Sees its end without owning it.
    pub fn watch(&self) -> ExitWatch {
        self.exit.clone()
    }

    /// Waits until the helper says that it does its work; returns the process it started for that, if any,
    /// which is from now on killed with it and must have ended before `wait` returns. `None` stands for one that has
    /// ended already, too.
    ///
    /// Dropping the handle before this has succeeded kills the helper.
    pub async fn ready(&mut self, deadline: Duration) -> Result<Option<ProcessIdentity>, ProcessError> {
        let report = match timeout(deadline, self.next_report()).await {
            Ok(report) => report?,
            Err(_) => {
                return Err(ProcessError::Slow {
                    program: self.program.clone(),
                    after: deadline,
                });
            }
        };
        match report {
            Some(Report::Ready { child }) => {
                let child = match child {
                    Some(child) => self.include(child)?,
                    None => None,
                };
                self.ready = true;
                Ok(child)
            }
            Some(Report::Failed { message }) => Err(ProcessError::Failed {
                program: self.program.clone(),
                message,
            }),
            Some(Report::Detached) => Err(self.nonsense()),
            // It closed its end: it is on its way out, and the reaper will say how.
            None => Err(ProcessError::Ended {
                program: self.program.clone(),
                exit: self.wait().await,
            }),
        }
    }

    /// Lets it outlive this process. On failure it is still owned, and returned.
    pub async fn disarm(mut self) -> Result<Detached, (Self, ProcessError)> {
        if let Err(error) = self.say(Order::Detach, "detach") {
            return Err((self, error));
        }
        let confirmed = match timeout(DETACH_DEADLINE, self.next_report()).await {
            Ok(Ok(Some(Report::Detached))) => Ok(()),
            Ok(Ok(Some(_))) => Err(self.nonsense()),
            Ok(Ok(None)) => Err(ProcessError::Ended {
                program: self.program.clone(),
                exit: self.wait().await,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ProcessError::Slow {
                program: self.program.clone(),
                after: DETACH_DEADLINE,
            }),
        };
        if let Err(error) = confirmed {
            return Err((self, error));
        }
        tracing::debug!(pid = self.pid(), program = %self.program.display(), "detached");
        if let Some(owner) = self.owner.take() {
            // The reaper has gone only if the process has: then there is nobody to let live.
            owner.send(()).ok();
        }
        Ok(Detached {
            identity: self.identity,
        })
    }

    fn say(&self, order: Order, action: &'static str) -> Result<(), ProcessError> {
        let said = match &self.watchdog {
            Some(watchdog) => watchdog.say(order),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it has no watchdog pipe",
            )),
        };
        said.map_err(|source| ProcessError::Control {
            action,
            pid: self.pid(),
            source,
        })
    }

    async fn next_report(&mut self) -> Result<Option<Report>, ProcessError> {
        let pid = self.pid();
        let report = match &mut self.reports {
            Some(reports) => reports.next().await,
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it has no report pipe",
            )),
        };
        report.map_err(|source| ProcessError::Control {
            action: "hear from",
            pid,
            source,
        })
    }

    fn nonsense(&self) -> ProcessError {
        let source = io::Error::new(io::ErrorKind::InvalidData, "unexpected report");
        ProcessError::Control {
            action: "understand",
            pid: self.pid(),
            source,
        }
    }

    /// Takes a process that the helper says it started into the family, if it really is its child. `None`: it has
    /// ended already, of which the helper's own end will tell.
    fn include(&self, child: u32) -> Result<Option<ProcessIdentity>, ProcessError> {
        let Ok(identity) = ProcessIdentity::of(child) else {
            return Ok(None);
        };
        let Some(pidfd) = identity.pidfd().ok().flatten() else {
            return Ok(None);
        };
        if parent_of(child).ok() != Some(self.pid()) {
            if !identity.is_alive() {
                return Ok(None);
            }
            return Err(ProcessError::NotItsChild {
                child,
                parent: self.pid(),
            });
        }
        self.family
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(pidfd));
        Ok(Some(identity))
    }
}

impl Drop for ProcessHandle {
    fn drop(&mut self) {
        let left_in_order = self.ready && self.watchdog.is_some();
        // `owner` is gone only after `disarm`.
        if left_in_order || self.owner.is_none() || self.try_wait().is_some() {
            return;
        }
        if let Err(error) = self.kill() {
            tracing::warn!(%error, "a process may have outlived its owner");
        }
    }
}

impl ExitWatch {
    /// Waits for the end.
    pub async fn wait(&self) -> Exit {
        let mut watch = self.0.clone();
        // The sender goes without a word only if the runtime ends, and with it this future.
        watch
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|exit| *exit)
            .unwrap_or(Exit::Lost)
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Option<Exit> {
        *self.0.borrow()
    }
}
