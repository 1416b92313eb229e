//! The containers of a sandbox, as the host knows them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bulkhead_agent_protocol::message::Stats;
use bulkhead_oci::HostHooks;
use bulkhead_oci::runtime::Process;

use super::block_devices::Had;
use super::disks::Plugged;
use super::{ErrorKind, SandboxError};
use crate::agent::Streams;
use crate::anchor::Anchor;
use crate::cgroup::Cgroup;
use crate::hooks::{self, HookState, HookStatus};
use crate::undo::Undo;

/// All containers, by id.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<String, Arc<Entry>>>);

/// One container. Locks in here are held for a look or a move, never across an await.
#[derive(Debug)]
pub(super) struct Entry {
    /// containerd's id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Hooks that run on the host.
    pub hooks: HostHooks,
    /// The longest that hooks take which run in the container before its program. `None`: there are none.
    pub start_hooks: Option<Duration>,
    /// What hooks are told, but for status and pid.
    pub oci_version: String,
    /// See `oci_version`.
    pub annotations: HashMap<String, String>,
    /// What init is, which execs have their part of.
    pub process: Option<Process>,
    /// Of init's anchor.
    pub pid: OnceLock<u32>,
    /// Streams of init, until they are taken.
    pub streams: Mutex<Option<Streams>>,
    /// The guest's last word on the container's counters.
    pub stats: Mutex<Option<Box<Stats>>>,
    /// What it has plugged into the VM for its root file system.
    pub disks: Mutex<Option<Plugged>>,
    /// Its block devices.
    pub devices: Mutex<Had>,
    anchors: Mutex<HashMap<String, Anchor>>,
    resources: Mutex<Option<Resources>>,
}

/// What a container holds on the host, besides its anchors.
#[derive(Debug)]
pub(super) struct Resources {
    /// Gives back mounts and cgroup.
    pub undo: Undo,
    /// Where its anchors are.
    pub cgroup: Cgroup,
}

impl Registry {
    /// Takes the id.
    ///
    /// # Errors
    /// It is taken.
    pub fn insert(&self, entry: Arc<Entry>) -> Result<(), SandboxError> {
        match self.lock().entry(entry.id.clone()) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(entry);
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                let message = format!("container {} already exists", entry.id);
                Err(SandboxError::new(ErrorKind::AlreadyExists, message))
            }
        }
    }

    /// Gives the id back.
    pub fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The container of this id.
    pub fn get(&self, id: &str) -> Option<Arc<Entry>> {
        self.lock().get(id).cloned()
    }

    /// The container whose init is shown on the host as process `pid`, while it lives.
    pub fn of_pid(&self, pid: u32) -> Option<Arc<Entry>> {
        let containers = self.lock();
        let mut all = containers.values();
        all.find(|entry| entry.has_anchor("", pid)).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// A container of which nothing is there yet.
    pub fn new(request: &super::ContainerRequest) -> Self {
        Self {
            id: request.id.clone(),
            bundle: request.bundle.clone(),
            hooks: request.plan.host.hooks.clone(),
            start_hooks: request
                .plan
                .guest
                .hooks()
                .as_ref()
                .and_then(|hooks| hooks.start_container().as_deref())
                .map(hooks::longest),
            oci_version: request.plan.guest.version().clone(),
            annotations: request.spec_annotations.clone(),
            process: request.plan.guest.process().clone(),
            pid: OnceLock::new(),
            streams: Mutex::default(),
            stats: Mutex::default(),
            disks: Mutex::default(),
            devices: Mutex::default(),
            anchors: Mutex::default(),
            resources: Mutex::default(),
        }
    }

    /// What hooks are told now.
    pub fn hook_state(&self, status: HookStatus) -> HookState {
        HookState {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid: self.pid.get().copied().filter(|_| status != HookStatus::Stopped),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }

    /// Keeps a process's anchor; init's exec id is empty.
    pub fn keep_anchor(&self, exec_id: &str, anchor: Anchor) {
        lock(&self.anchors).insert(exec_id.to_owned(), anchor);
    }

    /// Whether this very anchor is still kept, and so has not been ended by us.
    pub fn has_anchor(&self, exec_id: &str, pid: u32) -> bool {
        lock(&self.anchors)
            .get(exec_id)
            .is_some_and(|anchor| anchor.pid() == pid)
    }

    /// Ends a process's anchor, if it has one: when this returns, its pid is nobody's.
    pub async fn end_anchor(&self, exec_id: &str) {
        let anchor = lock(&self.anchors).remove(exec_id);
        if let Some(anchor) = anchor
            && let Err(error) = anchor.end().await
        {
            tracing::warn!(container = self.id, exec = exec_id, "{error}");
        }
    }

    /// Ends all anchors.
    pub async fn end_anchors(&self) {
        let ids: Vec<_> = lock(&self.anchors).keys().cloned().collect();
        for exec_id in ids {
            self.end_anchor(&exec_id).await;
        }
    }

    /// Kills a process's anchor without waiting for its end.
    pub fn drop_anchor(&self, exec_id: &str) {
        drop(lock(&self.anchors).remove(exec_id));
    }

    /// Keeps what has to be given back.
    pub fn keep(&self, resources: Resources) {
        *lock(&self.resources) = Some(resources);
    }

    /// The cgroup, as long as the container has one.
    pub fn cgroup(&self) -> Option<Cgroup> {
        lock(&self.resources)
            .as_ref()
            .map(|resources| resources.cgroup.clone())
    }

    /// Takes what has to be given back; the first caller gets it.
    pub fn take_resources(&self) -> Option<Resources> {
        lock(&self.resources).take()
    }
}

/// A poisoned lock guards plain values here, which are whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
