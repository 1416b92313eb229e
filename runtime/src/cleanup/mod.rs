//! Removes a sandbox, or one container of it, by what is on disk: for when its shim is gone.
//!
//! Works on half of everything, may be done again, and any number of these may run at once. Kills only
//! processes it knows by number and start time, or that hold the sandbox's lock; unmounts only below the
//! sandbox's own directory and at `<bundle>/rootfs`, and follows no link there.

mod processes;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use displaydoc::Display;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use crate::cgroup::{self, CgroupError};
use crate::config::Config;
use crate::hooks::{self, HookState, HookStatus};
use crate::mount::{self, MountError, mounts_below};
use crate::network::Netns;
use crate::process::{ProcessIdentity, boot_id};
use crate::sandbox::directory;
use crate::state::{ContainerState, NetworkState, Phase, SandboxState, StateError};

/// containerd kills `delete` after 5 s; hooks get what is left of this.
const BUDGET: Duration = Duration::from_secs(4);
/// Between two tries to get a lock.
const PAUSE: Duration = Duration::from_millis(5);
/// What a shim gets to begin its shutdown, or to end: it has answered the request for it already.
const OWNER_GRACE: Duration = Duration::from_millis(1500);
/// Name of the lock that lets one clean-up of a sandbox run at a time.
const CLEANUP_LOCK: &str = "cleanup";

/// What could not be cleaned up.
#[derive(Debug, Display, Error)]
pub enum CleanupError {
    /// cannot read {path}: {source}
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// another clean-up of {0} does not end
    Busy(PathBuf),
    /// processes of {0} do not die
    Alive(PathBuf),
    /// cannot remove {path}: {source}
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// {0}
    Mount(#[from] MountError),
    /// {0}
    Cgroup(#[from] CgroupError),
    /// {0}
    State(#[from] StateError),
}

/// The first of several failures; the others are logged.
#[derive(Debug, Default)]
struct Failures(Option<CleanupError>);

/// Cleans up after a shim that is gone: ends the VM, and removes what the container holds on the host; with
/// the last container of a sandbox, the sandbox. Where the sandbox's shim is alive after all, as a pod's may
/// be when one of its containers is given up, the VM stays and only the container's things go; a shim that
/// has no other container and is not shutting down is ended.
///
/// Blocks for at most some 4 s. Must not be called inside a tokio runtime.
///
/// # Errors
/// The first thing that could not be removed, after everything else has been.
pub fn container(
    config: &Config,
    namespace: &str,
    sandbox: &str,
    container_id: &str,
    bundle: &Path,
) -> Result<(), CleanupError> {
    let until = Instant::now() + BUDGET;
    let directory = directory::path_of(&config.state_dir, namespace, sandbox);
    let mut failures = Failures::default();
    if directory.exists() {
        let _turn = take_turn(&directory, until)?;
        sandbox_of(&directory, sandbox, container_id, until, &mut failures);
    }
    // Whatever the state file said.
    failures.note(unmount_below(&bundle.join("rootfs")));
    failures.result()
}

fn sandbox_of(directory: &Path, sandbox: &str, id: &str, until: Instant, failures: &mut Failures) {
    let Some(mut state) = read_state(directory, failures) else {
        return;
    };
    if let Some(shim) = living_owner(&state) {
        if id != sandbox || state.containers.keys().any(|known| known != id) {
            if let Some(container) = state.containers.get(id) {
                container_of(directory, id, container, true, until, failures);
            }
            return;
        }
        if leaves(directory, &shim) {
            return;
        }
        match read_state(directory, failures) {
            Some(latest) => state = latest,
            None => return,
        }
    }
    let this_boot = boot_id().is_ok_and(|boot_id| state.is_of_boot(&boot_id));

    let identities = state.vmm.iter().chain(&state.fs_server).filter(|_| this_boot);
    failures.note(processes::end(directory, identities, until));
    // A shim that was on its way when we looked may have made more since. Now nobody does.
    if let Ok(Some(latest)) = SandboxState::read(directory) {
        state = latest;
    }
    let last = id == sandbox || state.containers.keys().all(|known| known == id);
    let gone = state.containers.iter().filter(|(known, _)| last || *known == id);
    let mut remaining = state.clone();
    for (id, container) in gone {
        // Before they run: hooks run once, and the next clean-up would run them again.
        remaining.containers.remove(id);
        failures.note(remaining.write(directory).map_err(Into::into));
        container_of(directory, id, container, this_boot, until, failures);
    }
    if last {
        failures.note(unmount_below(directory));
        failures.note(remove_cgroups(&state.cgroups));
        release_interface(&state);
        let removed = directory::remove(directory);
        failures.note(removed.map_err(|source| CleanupError::Remove {
            path: directory.into(),
            source,
        }));
    }
}

/// `None`: hands off.
fn read_state(directory: &Path, failures: &mut Failures) -> Option<SandboxState> {
    match SandboxState::read(directory) {
        Ok(state) => Some(state.unwrap_or_default()),
        Err(error @ StateError::Version { .. }) if processes::shim_holds_lock(directory) => {
            // A newer shim's sandbox, alive: nothing in there is ours to touch.
            failures.note(Err(error.into()));
            None
        }
        Err(error) => {
            tracing::warn!("{error}; cleaning up by what is there");
            Some(SandboxState::default())
        }
    }
}

/// The sandbox's shim, if it is alive, and not this process.
fn living_owner(state: &SandboxState) -> Option<ProcessIdentity> {
    let this_boot = boot_id().is_ok_and(|boot_id| state.is_of_boot(&boot_id));
    state
        .shim
        .filter(|shim| this_boot && shim.is_alive() && shim.pid != std::process::id())
}

/// Whether a shim whose only container is gone is leaving by itself: containerd runs `delete` after every
/// Shutdown, too, and the VM's orderly end is not to be cut short. One that means to stay has been given up,
/// and is killed.
fn leaves(directory: &Path, shim: &ProcessIdentity) -> bool {
    let until = Instant::now() + OWNER_GRACE;
    while shim.is_alive() && Instant::now() < until {
        let phase = SandboxState::read(directory)
            .ok()
            .flatten()
            .map(|state| state.phase);
        if matches!(phase, Some(Phase::Draining | Phase::Stopped)) {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    processes::kill(shim);
    false
}

/// Ends what stands for a container on the host.
fn container_of(
    directory: &Path,
    id: &str,
    container: &ContainerState,
    this_boot: bool,
    until: Instant,
    failures: &mut Failures,
) {
    if let Some(anchor) = container.anchor.filter(|_| this_boot) {
        processes::kill(&anchor);
    }
    let rootfs = container.bundle.join("rootfs");
    for point in container.mounts.iter().rev() {
        // A state file cannot make us unmount anything else.
        if point.starts_with(directory) || *point == rootfs {
            failures.note(mount::detach_all(point).map_err(Into::into));
        }
    }
    failures.note(unmount_below(&directory.join(crate::share::SHARED).join(id)));
    failures.note(remove_cgroups(&container.cgroups));
    run_poststop(id, container, until);
}

/// Runs the hooks for as long as there is time.
fn run_poststop(id: &str, container: &ContainerState, until: Instant) {
    if container.poststop.is_empty() || container.anchor.is_none() {
        return;
    }
    let state = HookState {
        oci_version: container.oci_version.clone(),
        id: id.to_owned(),
        status: HookStatus::Stopped,
        pid: None,
        bundle: container.bundle.clone(),
        annotations: container
            .annotations
            .clone()
            .into_iter()
            .collect::<HashMap<_, _>>(),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::warn!(container = id, "cannot run poststop hooks: {error}"),
    };
    let left = until.saturating_duration_since(Instant::now());
    let run = async { tokio::time::timeout(left, hooks::run_all(&container.poststop, &state)).await };
    if runtime.block_on(run).is_err() {
        tracing::warn!(container = id, "poststop hooks did not finish in time");
    }
}

/// Clears a directory whose lock the caller holds, and in which therefore nothing runs.
pub(crate) fn leftovers(directory: &Path) -> Result<(), CleanupError> {
    let mut failures = Failures::default();
    if let Ok(Some(state)) = SandboxState::read(directory) {
        tracing::info!(
            "cleaning up what an earlier sandbox left in {}",
            directory.display()
        );
        for container in state.containers.values() {
            failures.note(unmount_below(&container.bundle.join("rootfs")));
            failures.note(remove_cgroups(&container.cgroups));
        }
        failures.note(remove_cgroups(&state.cgroups));
    }
    unmount_below(directory)?;
    failures.note(
        directory::clear(directory).map_err(|source| CleanupError::Remove {
            path: directory.into(),
            source,
        }),
    );
    failures.result()
}

/// Removes the sandboxes of a namespace of which nothing runs any more. For a namespace that is our own: nobody
/// calls `delete` for what is in there.
pub(crate) fn abandoned(namespace: &Path) {
    let entries = fs::read_dir(namespace).into_iter().flatten().flatten();
    for directory in entries.map(|entry| entry.path()) {
        // Held until the directory is gone, so that nobody begins anew in it.
        let Ok(Some(_lock)) = directory::try_claim(&directory) else {
            continue;
        };
        let removed = leftovers(&directory).map_err(|error| error.to_string());
        let removed = removed.and_then(|()| directory::remove(&directory).map_err(|error| error.to_string()));
        if let Err(error) = removed {
            tracing::warn!("{}: {error}", directory.display());
        }
    }
}

/// Detaches every mount at `root` and below it, the last first.
fn unmount_below(root: &Path) -> Result<(), CleanupError> {
    let mut failures = Failures::default();
    for point in mounts_below(root)?.iter().rev() {
        failures.note(mount::detach(point).map_err(Into::into));
    }
    failures.result()
}

/// Removes cgroups, if that is what they are.
fn remove_cgroups(directories: &[PathBuf]) -> Result<(), CleanupError> {
    let hierarchies = cgroup::Hierarchies::detect()?;
    let ours: Vec<_> = directories
        .iter()
        .filter(|path| hierarchies.contain(path))
        .cloned()
        .collect();
    Ok(cgroup::remove(&ours)?)
}

/// Lets go of the pod's interface; with our own namespace it has gone already.
fn release_interface(state: &SandboxState) {
    let Some(NetworkState {
        namespace,
        mirrored: Some(interface),
        ..
    }) = &state.network
    else {
        return;
    };
    if namespace.as_os_str().is_empty() {
        return;
    }
    let released = Netns::open(namespace).and_then(|netns| netns.part_blocking(interface));
    if let Err(error) = released {
        // Usually CNI has removed it first.
        tracing::debug!("{error}");
    }
}

/// Waits until no other clean-up of this sandbox runs.
fn take_turn(directory: &Path, until: Instant) -> Result<Option<fs::File>, CleanupError> {
    let path = directory.join(CLEANUP_LOCK);
    let lock = match fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
    {
        Ok(lock) => lock,
        // The other one has just removed the directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CleanupError::Read { path, source }),
    };
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            return Err(CleanupError::Busy(directory.into()));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Some(lock))
}

impl Failures {
    fn note(&mut self, result: Result<(), CleanupError>) {
        match result {
            Ok(()) => {}
            Err(error) if self.0.is_none() => self.0 = Some(error),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn result(self) -> Result<(), CleanupError> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
