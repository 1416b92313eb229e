//! One container: its processes' states, and the calls that change them.
//!
//! States live under one lock, which is never held while the guest is asked for anything: each call marks
//! what it is about to do, asks, and then records how it went. Events are queued under the same lock, so
//! that their order is that of the changes they tell of.

mod delete;
mod exits;
mod process;
mod start;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::message::Stats;
use bulkhead_oci::runtime::{LinuxResources, Process as ProcessSpec};
use bulkhead_runtime::sandbox;
use containerd_shim_protos::events::task::{TaskExecAdded, TaskPaused, TaskResumed};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::error::TaskError;
use crate::events::Publisher;
use crate::exit_order::ExitOrder;
use crate::process_state::{Exit, Phase};
use crate::stdio::{Copies, Paths};
pub use delete::Deleted;
pub use exits::KILLED;
use process::Process;

/// How often Pids has the guest list its processes anew: who polls sees a new one soon, and costs little.
const PIDS_FRESH: Duration = Duration::from_millis(50);
/// The highest signal, SIGRTMAX.
const MAX_SIGNAL: u32 = 64;

/// A created container.
#[derive(Debug)]
pub struct Container {
    id: String,
    namespace: String,
    bundle: PathBuf,
    guest: sandbox::Container,
    publisher: Publisher,
    processes: Mutex<Processes>,
    /// Held by Pause and Resume, so that the guest and we agree on the last of them.
    freezing: tokio::sync::Mutex<()>,
    /// Held while a list of the guest's processes is fresh.
    listing: Arc<tokio::sync::Mutex<()>>,
}

/// Under one lock.
#[derive(Debug)]
struct Processes {
    init: Process,
    execs: HashMap<String, Process>,
    order: ExitOrder,
}

/// What State answers.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the process is in its life.
    pub phase: Phase,
    /// Host pid.
    pub pid: u32,
    /// As the client wrote them.
    pub paths: Paths,
}

/// A process and its pid, for Pids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidEntry {
    /// On the host for init and execs, which have an anchor there; else in the guest.
    pub pid: u32,
    /// Of a started exec.
    pub exec_id: Option<String>,
}

impl Processes {
    fn get(&self, exec_id: &str) -> Result<&Process, TaskError> {
        if exec_id.is_empty() {
            return Ok(&self.init);
        }
        self.execs
            .get(exec_id)
            .ok_or_else(|| TaskError::NoProcess(exec_id.to_owned()))
    }

    fn get_mut(&mut self, exec_id: &str) -> Result<&mut Process, TaskError> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs
            .get_mut(exec_id)
            .ok_or_else(|| TaskError::NoProcess(exec_id.to_owned()))
    }

    fn live_execs(&self) -> usize {
        self.execs.values().filter(|exec| exec.state.is_live()).count()
    }
}

impl Container {
    /// A container that the guest has created.
    pub fn new(
        id: &str,
        namespace: &str,
        bundle: PathBuf,
        guest: sandbox::Container,
        paths: Paths,
        copies: Option<Copies>,
        publisher: Publisher,
    ) -> Self {
        let init = Process::init(guest.pid(), paths, copies);
        Self {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            bundle,
            guest,
            publisher,
            processes: Mutex::new(Processes {
                init,
                execs: HashMap::new(),
                order: ExitOrder::default(),
            }),
            freezing: tokio::sync::Mutex::default(),
            listing: Arc::default(),
        }
    }

    /// containerd's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Host pid of init's anchor.
    pub fn pid(&self) -> u32 {
        self.guest.pid()
    }

    /// The bundle, as the client named it.
    pub fn bundle(&self) -> &std::path::Path {
        &self.bundle
    }

    /// One process, for State.
    ///
    /// # Errors
    /// There is no such process.
    pub fn snapshot(&self, exec_id: &str) -> Result<Snapshot, TaskError> {
        let processes = self.lock();
        let process = processes.get(exec_id)?;
        Ok(Snapshot {
            phase: process.state.phase(),
            pid: process.pid,
            paths: process.paths.clone(),
        })
    }

    /// Waits for a process to end.
    ///
    /// # Errors
    /// There is no such process, or it is deleted meanwhile.
    pub async fn wait(&self, exec_id: &str) -> Result<Exit, TaskError> {
        let ended = self.lock().get(exec_id)?.ended.subscribe();
        wait_for_end(ended)
            .await
            .ok_or_else(|| TaskError::NoProcess(exec_id.to_owned()))
    }

    /// Adds an exec.
    ///
    /// # Errors
    /// The container is paused or stopped, or the id is taken.
    pub fn add_exec(&self, exec_id: &str, paths: Paths, spec: ProcessSpec) -> Result<(), TaskError> {
        let mut processes = self.lock();
        processes.init.state.may_exec()?;
        if processes.execs.contains_key(exec_id) {
            return Err(TaskError::ExecExists(exec_id.to_owned()));
        }
        processes
            .execs
            .insert(exec_id.to_owned(), Process::exec(paths, spec));
        self.publisher.publish(&TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..TaskExecAdded::default()
        });
        Ok(())
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// The process has ended or never began, the signal does not exist, or the guest does not answer.
    pub async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), TaskError> {
        if signal > MAX_SIGNAL {
            return Err(TaskError::bad_request(
                "kill",
                format!("signal {signal} does not exist"),
            ));
        }
        self.lock().get(exec_id)?.state.may_kill()?;
        Ok(self.guest.kill(exec_id, signal, all).await?)
    }

    /// Freezes the container.
    ///
    /// # Errors
    /// It does not run, or the guest does not answer.
    pub async fn pause(&self) -> Result<(), TaskError> {
        let _one_at_a_time = self.freezing.lock().await;
        self.lock().init.state.may_pause()?;
        self.guest.pause().await?;
        let mut processes = self.lock();
        processes.init.state.paused();
        let container_id = self.id.clone();
        self.publisher.publish(&TaskPaused {
            container_id,
            ..TaskPaused::default()
        });
        Ok(())
    }

    /// Thaws the container.
    ///
    /// # Errors
    /// It is not paused, or the guest does not answer.
    pub async fn resume(&self) -> Result<(), TaskError> {
        let _one_at_a_time = self.freezing.lock().await;
        self.lock().init.state.may_resume()?;
        self.guest.resume().await?;
        let mut processes = self.lock();
        processes.init.state.resumed();
        let container_id = self.id.clone();
        self.publisher.publish(&TaskResumed {
            container_id,
            ..TaskResumed::default()
        });
        Ok(())
    }

    /// Changes limits.
    ///
    /// # Errors
    /// The container has ended, or the guest refuses them.
    pub async fn update(&self, resources: &LinuxResources) -> Result<(), TaskError> {
        self.lock().init.state.may_update()?;
        Ok(self.guest.update(resources).await?)
    }

    /// Sets a terminal's size. Without a terminal there is nothing to do; before an exec has one, the size
    /// is remembered.
    ///
    /// # Errors
    /// The process has ended, or the guest does not answer.
    pub async fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<(), TaskError> {
        {
            let mut processes = self.lock();
            let process = processes.get_mut(exec_id)?;
            process.state.may_resize()?;
            if !process.paths.terminal {
                return Ok(());
            }
            if process.spec.is_some() || process.pid == 0 {
                process.size = Some((width, height));
                return Ok(());
            }
        }
        Ok(self.guest.resize(exec_id, width, height).await?)
    }

    /// Ends a process's input once all of it has been read. May be called again.
    ///
    /// # Errors
    /// There is no such process.
    pub fn close_stdin(&self, exec_id: &str) -> Result<(), TaskError> {
        let mut processes = self.lock();
        let process = processes.get_mut(exec_id)?;
        process.stdin_closed = true;
        if let Some(copies) = &process.copies {
            copies.close_stdin();
        }
        Ok(())
    }

    /// The counters the guest sent last.
    pub fn stats(&self) -> Option<Stats> {
        self.guest.stats()
    }

    /// Every process, as far as the guest has told: never waits for it. Never empty, since a daemon that
    /// restarts takes an empty list for a leak.
    pub fn pids(&self) -> Vec<PidEntry> {
        let processes = self.lock();
        let anonymous = |pid| PidEntry { pid, exec_id: None };
        let mut entries = vec![anonymous(processes.init.pid)];
        if processes.init.state.exit().is_some() {
            return entries;
        }
        let live = |(id, exec): (&String, &Process)| {
            (exec.state.is_live() && exec.pid > 0).then(|| PidEntry {
                pid: exec.pid,
                exec_id: Some(id.clone()),
            })
        };
        entries.extend(processes.execs.iter().filter_map(live));
        entries.extend(self.guest.other_pids().into_iter().map(anonymous));
        drop(processes);
        self.refresh_pids();
        entries
    }

    /// Has the guest list its processes for the next Pids, unless the last list is fresh.
    fn refresh_pids(&self) {
        let Ok(listing) = self.listing.clone().try_lock_owned() else {
            return;
        };
        let guest = self.guest.clone();
        tokio::spawn(async move {
            if let Err(error) = guest.refresh_other_pids().await {
                tracing::debug!(container = ?guest, "{error}");
            }
            sleep(PIDS_FRESH).await;
            drop(listing);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Processes> {
        // A call that panics has changed one process at most, and its state machine in one assignment.
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `None` if the process is deleted before it ends.
async fn wait_for_end(mut ended: watch::Receiver<Option<Exit>>) -> Option<Exit> {
    ended.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
}
