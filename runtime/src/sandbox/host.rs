//! What a sandbox holds on the host, from before its VM starts until after it has ended.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bulkhead_oci::NetworkNamespace;

use super::directory;
use super::record::Record;
use super::{ErrorKind, SandboxError, SandboxRequest, deadlines};
use crate::cgroup::{self, Cgroup, Hierarchies, devices};
use crate::cleanup;
use crate::network::{Netns, NetworkError};
use crate::process::{Placement, ProcessIdentity, boot_id};
use crate::share::SharedTree;
use crate::state::SandboxState;
use crate::undo::{Undo, UndoError};

/// Everything but the processes.
#[derive(Debug)]
pub(super) struct Host {
    /// `<state_dir>/<namespace>/<sandbox>`.
    pub directory: PathBuf,
    /// The state file.
    pub record: Record,
    /// What the guest sees.
    pub share: SharedTree,
    /// Where the tap and the anchors are.
    pub netns: Netns,
    /// Its file, if it is not our own.
    pub netns_path: Option<PathBuf>,
    /// Name of the tap.
    pub tap: String,
    /// The host's cgroup mounts.
    pub hierarchies: Hierarchies,
    /// Where the VM's processes put themselves.
    pub placement: Placement,
    /// The VM's.
    pub cgroup: Cgroup,
    /// Held, and inherited by every process of the VM.
    lock: File,
    undo: Mutex<Option<Undo>>,
}

impl Host {
    /// Makes it all, and the tap device. Blocks for some milliseconds.
    ///
    /// # Errors
    /// What could not be made; the rest is undone.
    pub fn prepare(request: &SandboxRequest) -> Result<(Self, OwnedFd), SandboxError> {
        let directory = directory::path_of(&request.config.state_dir, &request.namespace, &request.id);
        let lock = directory::claim(&directory, deadlines::PREDECESSOR)?;
        // A sandbox of this name that nobody cleaned up after.
        cleanup::leftovers(&directory)
            .map_err(|e| SandboxError::doing(ErrorKind::Internal, "leftovers", &e))?;
        let mut undo = Undo::new();
        let dir = directory.clone();
        undo.push(format!("remove {}", directory.display()), move || {
            directory::remove(&dir)
        });

        let record = Record::create(&directory, first_state(request)?)?;
        let shared = directory.join(crate::share::SHARED);
        record.update(|state| state.mounts.push(shared))?;
        let share = SharedTree::create(&directory, &mut undo)?;

        let hierarchies = Hierarchies::detect()?;
        let cgroup = cgroup::sandbox_path(&request.cgroups_path, &request.id);
        let missing = hierarchies.missing(&cgroup)?;
        record.update(|state| state.cgroups.clone_from(&missing))?;
        undo.push(format!("remove cgroup {}", cgroup.display()), move || {
            cgroup::remove(&missing)
        });
        let cgroup = hierarchies.create(&cgroup)?;
        if let Err(error) = cgroup.limit_devices(&devices::OF_A_VM) {
            tracing::warn!("{error}; what holds is that the VM's processes see no devices of the host");
        }
        let placement = Placement {
            cgroup_procs: cgroup.procs(),
            oom_score_adj: Some(oom_score_adj().map_err(|e| internal("read own oom_score_adj", &e))?),
        };

        let netns = network_namespace(&request.network)?;
        let tap = netns.make_tap()?;
        let host = Self {
            directory,
            record,
            share,
            netns,
            netns_path: path_of(&request.network),
            tap: tap.name().to_owned(),
            hierarchies,
            cgroup,
            placement,
            lock,
            undo: Mutex::new(Some(undo)),
        };
        Ok((host, tap.into_fd()))
    }

    /// A copy of the lifecycle lock for a process of the VM.
    ///
    /// # Errors
    /// No descriptor is to be had.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        Ok(self.lock.try_clone()?.into())
    }

    /// Registers a step of [`Host::release`]; after that it runs at once.
    pub fn on_release<F, E>(&self, what: String, step: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
        E: Into<UndoError>,
    {
        let mut undo = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        match undo.as_mut() {
            Some(undo) => undo.push(what, step),
            None => {
                let mut late = Undo::new();
                late.push(what, step);
            }
        }
    }

    /// Gives everything back. Only once every process of the VM has ended. May be called again.
    ///
    /// # Errors
    /// What could not be given back.
    pub fn release(&self) -> Result<(), SandboxError> {
        self.record.close();
        let undo = self.undo.lock().unwrap_or_else(PoisonError::into_inner).take();
        match undo.map(Undo::run) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(failed)) => Err(SandboxError::new(ErrorKind::Internal, failed.to_string())),
        }
    }
}

fn first_state(request: &SandboxRequest) -> Result<SandboxState, SandboxError> {
    let boot_id = boot_id().map_err(|error| internal("read the boot id", &error))?;
    let mut state = SandboxState::new(&request.namespace, &request.id, boot_id);
    let shim = ProcessIdentity::of(std::process::id());
    state.shim = Some(shim.map_err(|error| internal("read own start time", &error))?);
    state.created_at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Ok(state)
}

fn path_of(wanted: &NetworkNamespace) -> Option<PathBuf> {
    match wanted {
        NetworkNamespace::Path(path) => Some(path.clone()),
        NetworkNamespace::New | NetworkNamespace::Host => None,
    }
}

fn network_namespace(wanted: &NetworkNamespace) -> Result<Netns, NetworkError> {
    match wanted {
        NetworkNamespace::Path(path) => Netns::open(path),
        NetworkNamespace::New => Netns::create(),
        NetworkNamespace::Host => {
            tracing::warn!("a VM cannot join the host's network namespace: the guest gets loopback alone");
            Netns::create()
        }
    }
}

/// Greatest value of `oom_score_adj`.
const MOST_KILLABLE: i32 = 1000;

/// Under memory pressure the VM goes before the shim, which has to tell of it. The shim of a pod has a score
/// below zero, from containerd; one started by hand may have any.
fn oom_score_adj() -> io::Result<i32> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
    let own: i32 = own.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((own + 1).clamp(0, MOST_KILLABLE))
}

fn internal(what: &str, error: &io::Error) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, format!("cannot {what}: {error}"))
}
