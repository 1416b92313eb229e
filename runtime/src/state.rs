//! What a sandbox leaves on disk, so that it can be cleaned up without anybody's memory.
//!
//! One JSON file, `state.json`, replaced atomically: a reader sees the old one or the new one. It is written
//! *before* what it names is made, so that it may name what is not there and never lacks what is. Unknown
//! fields are ignored, for a newer writer's sake; an unknown version is an error, for the caller to fall
//! back to what the directory and the lifecycle lock alone can tell.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::lease::LeaseToken;
use crate::process::ProcessIdentity;

/// The file's name in the sandbox's directory.
pub const STATE_FILE: &str = "state.json";
/// Raised when a reader of the old version could do harm with the new file.
pub const VERSION: u32 = 1;
/// Some KiB a container; this is for more of them than a node can hold.
const MAX_FILE: u64 = 8 << 20;

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxState {
    /// See [`VERSION`].
    pub version: u32,
    /// The boot that all process identities belong to. After another boot none of them means anything.
    pub boot_id: String,
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id.
    pub id: String,
    /// Where the sandbox is in its life.
    pub phase: Phase,
    /// How its VM began.
    pub origin: Origin,
    /// Why it stopped or failed, for people.
    pub reason: Option<String>,
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// The owner.
    pub shim: Option<ProcessIdentity>,
    /// The VM's processes: the monitor's parent, and the monitor.
    pub vmm: Vec<ProcessIdentity>,
    /// The file-sharing server.
    pub fs_server: Option<ProcessIdentity>,
    /// Mount points outside the containers' own, in the order they were made.
    pub mounts: Vec<PathBuf>,
    /// Where the tap is and what else was put there.
    pub network: Option<NetworkState>,
    /// Directories below cgroup mounts that the sandbox made, in the order they were made.
    pub cgroups: Vec<PathBuf>,
    /// Leases of host-wide names, see [`crate::lease`].
    pub leases: Vec<LeaseToken>,
    /// The containers, by id.
    pub containers: BTreeMap<String, ContainerState>,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The VM is being started.
    #[default]
    Creating,
    /// The agent answers.
    Ready,
    /// It is being stopped.
    Draining,
    /// It has ended in order.
    Stopped,
    /// It has ended otherwise.
    Failed,
}

/// How a VM began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its kernel booted.
    #[default]
    Booted,
    /// It was restored from a template.
    Restored,
    /// It booted because it could not be restored from the template that was there.
    BootedInstead,
}

/// What was put into a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// The namespace: the sandbox's own or the pod's.
    pub namespace: PathBuf,
    /// The tap device.
    pub tap: String,
    /// The interface whose traffic goes to the tap, and which has a mirror to remove.
    pub mirrored: Option<String>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerState {
    /// The bundle.
    pub bundle: PathBuf,
    /// The process containerd was told.
    pub anchor: Option<ProcessIdentity>,
    /// Mount points, in the order they were made.
    pub mounts: Vec<PathBuf>,
    /// Directories below cgroup mounts, in the order they were made.
    pub cgroups: Vec<PathBuf>,
    /// Hooks to run once the container is gone.
    pub poststop: Vec<Hook>,
    /// The spec's version, which hooks are told.
    pub oci_version: String,
    /// The spec's annotations, which hooks are told.
    pub annotations: BTreeMap<String, String>,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum StateError {
    /// cannot read {path}: {source}
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// cannot write {path}: {source}
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// {path} is no state file: {source}
    Malformed {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
    /// {0} is being removed
    Removed(PathBuf),
    /// {path} has version {found}, and only 1 to {known} are known
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one known.
        known: u32,
    },
}

impl SandboxState {
    /// An empty state of this version.
    pub fn new(namespace: &str, id: &str, boot_id: String) -> Self {
        Self {
            version: VERSION,
            boot_id,
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            ..Self::default()
        }
    }

    /// Reads the state of the sandbox in `directory`; `None` if it never wrote one.
    pub fn read(directory: &Path) -> Result<Option<Self>, StateError> {
        let path = directory.join(STATE_FILE);
        let mut text = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        }
        let state: Self = match serde_json::from_slice(&text) {
            Ok(state) => state,
            Err(source) => return Err(StateError::Malformed { path, source }),
        };
        if !(1..=VERSION).contains(&state.version) {
            return Err(StateError::Version {
                path,
                found: state.version,
                known: VERSION,
            });
        }
        Ok(Some(state))
    }

    /// Replaces the state of the sandbox in `directory`. Blocks on the disk; the file is a few KiB on tmpfs.
    pub fn write(&self, directory: &Path) -> Result<(), StateError> {
        let path = directory.join(STATE_FILE);
        self.replace(directory, &path)
            .map_err(|source| StateError::Write { path, source })
    }

    fn replace(&self, directory: &Path, path: &Path) -> io::Result<()> {
        let draft = directory.join(".state.json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(directory)?.sync_all()
    }

    /// The sandbox of containerd's namespace `namespace` that has a living container which containerd knows as
    /// process `pid`. States that cannot be read name nobody.
    pub fn of_process(state_dir: &Path, namespace: &str, pid: u32) -> Option<Self> {
        let sandboxes = fs::read_dir(state_dir.join(namespace)).ok()?.flatten();
        let states = sandboxes.filter_map(|sandbox| Self::read(&sandbox.path()).ok().flatten());
        states.into_iter().find(|state| {
            let mut anchors = state.containers.values().filter_map(|container| container.anchor);
            anchors.any(|anchor| anchor.pid == pid && anchor.is_alive())
        })
    }

    /// Whether this state's process identities can still name processes.
    pub fn is_of_boot(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> SandboxState {
        let mut state = SandboxState::new("default", "box", "boot".to_owned());
        state.phase = Phase::Ready;
        state.vmm = vec![ProcessIdentity {
            pid: 7,
            start_time: 9,
        }];
        let container = ContainerState {
            bundle: "/b".into(),
            mounts: vec!["/m".into()],
            ..Default::default()
        };
        state.containers.insert("c".to_owned(), container);
        state
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(SandboxState::read(directory.path()).unwrap(), None);
        example().write(directory.path()).unwrap();
        assert_eq!(SandboxState::read(directory.path()).unwrap(), Some(example()));
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, [STATE_FILE]);
    }

    #[test]
    fn fields_of_a_newer_writer_are_ignored_and_missing_ones_empty() {
        let directory = tempfile::tempdir().unwrap();
        let text = r#"{"version": 1, "id": "box", "colour": "red", "containers": {"c": {"shape": 3}}}"#;
        fs::write(directory.path().join(STATE_FILE), text).unwrap();
        let state = SandboxState::read(directory.path()).unwrap().unwrap();
        assert_eq!(state.id, "box");
        assert_eq!(state.containers["c"], ContainerState::default());
        assert!(!state.is_of_boot("boot"));
    }

    #[test]
    fn unknown_versions_and_half_written_files_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        for version in ["2", "0"] {
            fs::write(
                directory.path().join(STATE_FILE),
                format!("{{\"version\": {version}}}"),
            )
            .unwrap();
            assert!(matches!(
                SandboxState::read(directory.path()),
                Err(StateError::Version { .. })
            ));
        }
        fs::write(directory.path().join(STATE_FILE), "{\"version\": 1, \"id").unwrap();
        assert!(matches!(
            SandboxState::read(directory.path()),
            Err(StateError::Malformed { .. })
        ));
    }
}
