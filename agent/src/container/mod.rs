//! Containers: what is known of each, and what may be done with it in which state.
//!
//! | state | comes from | create | start | exec | kill | pause | delete |
//! |---|---|---|---|---|---|---|---|
//! | (none) | | yes | | | | | |
//! | created | CreateContainer | | yes | yes | yes | | yes, kills |
//! | running | StartContainer | | | yes | yes | yes | |
//! | paused | Pause | | | | yes | resume | |
//! | stopped | init was reaped | | | | | | yes |

pub mod cgroup;
pub mod create;
pub mod devices;
pub mod exec;
pub mod lifecycle;
pub mod limits;
pub mod oom;
pub mod process;
pub mod registry;
pub mod resources;
pub mod spec;
pub mod stats;
pub mod submounts;
mod unsupported;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use bulkhead_agent_protocol::control::MAX_OTHER_PIDS;
use bulkhead_agent_protocol::message::Stats;
use oci_spec::runtime::LinuxDeviceCgroup;

use crate::failure::Failure;
use cgroup::Cgroup;
use process::Process;

/// A container that exists.
#[derive(Debug)]
pub struct Container {
    /// Where it is in its life.
    pub state: State,
    /// Its init.
    pub init: Process,
    /// Its further processes.
    pub execs: BTreeMap<String, Exec>,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// The agent's end of what init waits at, until it is started.
    pub gate: Option<OwnedFd>,
    /// What it may do with its block devices, whatever else it may; after all other rules.
    pub disk_rules: Vec<LinuxDeviceCgroup>,
    /// What further processes join and take on.
    pub surroundings: Surroundings,
    /// Processes killed for want of memory, as far as the host has been told.
    pub oom_kills: u64,
    /// The counters the host was last sent.
    pub last_stats: Option<Stats>,
}

/// What a further process of the container joins and takes on.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// `CLONE_NEW*` flags of its namespaces.
    pub namespaces: i32,
    /// The kernel ends every process of the container with its init.
    pub private_pids: bool,
    /// Its filter, as JSON.
    pub seccomp: Option<Vec<u8>>,
    /// Its execution domain.
    pub personality: Option<u64>,
    /// What the host mounts below its volumes appears in it.
    pub follows_host: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Init waits for its start.
    Created,
    /// Init has been started.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Init has ended.
    Stopped,
}

/// A further process, by its id.
#[derive(Debug)]
pub enum Exec {
    /// Being made; a size for its terminal may have come already.
    Starting(Option<(u32, u32)>),
    /// Made.
    Process(Process),
}

impl Container {
    /// The process of that id; empty is init.
    pub fn process_mut(&mut self, exec_id: &str) -> Option<&mut Process> {
        if exec_id.is_empty() {
            return Some(&mut self.init);
        }
        match self.execs.get_mut(exec_id)? {
            Exec::Process(process) => Some(process),
            Exec::Starting(_) => None,
        }
    }

    /// The process of that id, made already.
    ///
    /// # Errors
    /// `FailedPrecondition` while it is being made, `NotFound` if there is none.
    pub fn process(&mut self, exec_id: &str) -> Result<&mut Process, Failure> {
        if let Some(Exec::Starting(_)) = self.execs.get(exec_id) {
            return Err(Failure::state("process not created"));
        }
        self.process_mut(exec_id)
            .ok_or_else(|| Failure::not_found(format!("process {exec_id} not found")))
    }

    /// Pids of the processes that the host has not asked for itself. One that is being made cannot be told
    /// from those: then the last list stands.
    pub fn other_pids(&self) -> Vec<u32> {
        if self.execs.values().any(|exec| matches!(exec, Exec::Starting(_))) {
            return self
                .last_stats
                .as_ref()
                .map(|stats| stats.other_pids.clone())
                .unwrap_or_default();
        }
        let is_known = |pid: &i32| {
            *pid == self.init.pid
                || self
                    .execs
                    .values()
                    .any(|exec| matches!(exec, Exec::Process(process) if process.pid == *pid))
        };
        // What the kernel does not say is left out, as with the counters.
        let pids = self.cgroup.processes().unwrap_or_default().into_iter();
        pids.filter(|pid| !is_known(pid))
            .filter_map(|pid| u32::try_from(pid).ok())
            .take(MAX_OTHER_PIDS)
            .collect()
    }

    /// Whether any further process is being made or alive.
    pub fn has_live_execs(&self) -> bool {
        self.execs.values().any(|exec| match exec {
            Exec::Starting(_) => true,
            Exec::Process(process) => process.exit.is_none(),
        })
    }
}
