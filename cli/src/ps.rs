//! `bulkhead ps`: the sandboxes of this node, from what they leave on disk. Asks no shim and no guest, and takes
//! no lock: it cannot wait for one that hangs, nor disturb one that starts.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bulkhead_runtime::process::{ProcessIdentity, boot_id};
use bulkhead_runtime::state::{Origin, Phase, SandboxState};
use displaydoc::Display;
use nix::sys::stat::{major, minor};
use serde::Serialize;
use thiserror::Error;

use crate::output;

/// The lifecycle lock in a sandbox's directory; each process of the VM holds it.
const LOCK_FILE: &str = "lock";

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sandbox {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id.
    pub id: String,
    /// Where it is in its life.
    pub status: Status,
    /// How its VM began, once that is known: `booted_instead` means that its template was of no use.
    pub origin: Option<Origin>,
    /// Ids of its containers.
    pub containers: Vec<String>,
    /// Pid of the shim.
    pub shim_pid: Option<u32>,
    /// Pids of the VM's processes.
    pub vmm_pids: Vec<u32>,
    /// Seconds since it was created.
    pub age_seconds: Option<u64>,
    /// Why it failed, or why its state cannot be read.
    pub reason: Option<String>,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its VM is being started.
    Creating,
    /// It runs.
    Running,
    /// It is being stopped.
    Stopping,
    /// Nothing of it runs any more; its directory waits for containerd's clean-up.
    Dead,
}

/// Why there is no list.
#[derive(Debug, Display, Error)]
pub enum PsError {
    /// cannot read {path}: {source}
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The sandboxes below `state_dir`, by namespace and id. Without the directory there are none.
pub fn list(state_dir: &Path) -> Result<Vec<Sandbox>, PsError> {
    let read_error = |path: &str| {
        let path = PathBuf::from(path);
        move |source| PsError::Read { path, source }
    };
    let locks = fs::read_to_string("/proc/locks").map_err(read_error("/proc/locks"))?;
    let boot = boot_id().map_err(read_error("/proc/sys/kernel/random/boot_id"))?;
    // A clock before 1970 has no ages to tell.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut sandboxes = Vec::new();
    // No namespace of containerd's begins with a dot; what does is Bulkhead's own.
    let own = |directory: &Path| {
        directory
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
    };
    for namespace in directories(state_dir)?
        .into_iter()
        .filter(|directory| !own(directory))
    {
        for directory in directories(&namespace)? {
            sandboxes.push(inspect(&directory, &locks, &boot, now));
        }
    }
    sandboxes.sort_by(|a, b| (&a.namespace, &a.id).cmp(&(&b.namespace, &b.id)));
    Ok(sandboxes)
}

/// Writes them as a table, or as JSON.
pub fn write(out: &mut impl Write, sandboxes: &[Sandbox], json: bool) -> io::Result<()> {
    if json {
        return output::json(out, &sandboxes);
    }
    let rows: Vec<_> = sandboxes.iter().map(row).collect();
    output::table(
        out,
        [
            "NAMESPACE",
            "SANDBOX",
            "STATUS",
            "CONTAINERS",
            "VMM",
            "AGE",
            "REASON",
        ],
        &rows,
    )
}

fn row(sandbox: &Sandbox) -> [String; 7] {
    let vmm = sandbox
        .vmm_pids
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(",");
    [
        sandbox.namespace.clone(),
        sandbox.id.clone(),
        format!("{:?}", sandbox.status).to_lowercase(),
        sandbox.containers.len().to_string(),
        vmm,
        sandbox.age_seconds.map(output::age).unwrap_or_default(),
        sandbox.reason.clone().unwrap_or_default(),
    ]
}

/// Directories in `path`; none if it is not there (any more).
fn directories(path: &Path) -> Result<Vec<PathBuf>, PsError> {
    let error = |source| PsError::Read {
        path: path.to_owned(),
        source,
    };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let entries = entries.collect::<Result<Vec<_>, _>>().map_err(error)?;
    let directories = entries
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|typ| typ.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

fn inspect(directory: &Path, locks: &str, boot: &str, now: u64) -> Sandbox {
    let name = |path: Option<&Path>| {
        let name = path.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let mut sandbox = Sandbox {
        namespace: name(directory.parent()),
        id: name(Some(directory)),
        status: Status::Dead,
        origin: None,
        containers: Vec::new(),
        shim_pid: None,
        vmm_pids: Vec::new(),
        age_seconds: None,
        reason: None,
    };
    let is_alive =
        fs::metadata(directory.join(LOCK_FILE)).is_ok_and(|lock| is_locked(locks, lock.dev(), lock.ino()));
    match SandboxState::read(directory) {
        Ok(Some(state)) => fill(&mut sandbox, state, is_alive, boot, now),
        Ok(None) if is_alive => sandbox.status = Status::Creating,
        Ok(None) => sandbox.reason = Some("it left no state".into()),
        Err(error) => {
            sandbox.status = if is_alive { Status::Running } else { Status::Dead };
            sandbox.reason = Some(error.to_string());
        }
    }
    sandbox
}

fn fill(sandbox: &mut Sandbox, state: SandboxState, is_alive: bool, boot: &str, now: u64) {
    // In a pid namespace, /proc/locks does not show a lock whose first owner is gone, so ask its heirs too.
    let is_alive = is_alive || state.vmm.iter().any(ProcessIdentity::is_alive);
    sandbox.status = match state.phase {
        _ if !is_alive || !state.is_of_boot(boot) => Status::Dead,
        Phase::Creating => Status::Creating,
        Phase::Ready => Status::Running,
        Phase::Draining | Phase::Stopped | Phase::Failed => Status::Stopping,
    };
    sandbox.age_seconds = (state.created_at > 0).then(|| now.saturating_sub(state.created_at));
    sandbox.origin = (state.phase != Phase::Creating).then_some(state.origin);
    sandbox.containers = state.containers.into_keys().collect();
    sandbox.shim_pid = state.shim.map(|process| process.pid);
    sandbox.vmm_pids = state.vmm.iter().map(|process| process.pid).collect();
    sandbox.reason = state.reason;
}

/// Whether /proc/locks has an flock on the file. Its lines: `1: FLOCK  ADVISORY  WRITE 7 00:17:4026 0 EOF`.
fn is_locked(locks: &str, device: u64, inode: u64) -> bool {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    // A waiter's line has "->" where the kind would be.
    let mut lines = locks.lines().map(str::split_whitespace);
    lines.any(|mut words| words.nth(1) == Some("FLOCK") && words.nth(3) == Some(&file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "boot";

    fn state(phase: Phase, boot: &str) -> SandboxState {
        let mut state = SandboxState::new("ns", "box", boot.into());
        state.phase = phase;
        state.created_at = 100;
        state.containers.insert("c1".into(), Default::default());
        state
    }

    /// A sandbox's directory, and the line that /proc/locks has for it.
    fn sandbox(state: Option<&SandboxState>) -> (tempfile::TempDir, PathBuf, String) {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("ns/box");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(LOCK_FILE), "").unwrap();
        if let Some(state) = state {
            state.write(&directory).unwrap();
        }
        let lock = fs::metadata(directory.join(LOCK_FILE)).unwrap();
        let file = format!(
            "{:02x}:{:02x}:{}",
            major(lock.dev()),
            minor(lock.dev()),
            lock.ino()
        );
        (
            root,
            directory,
            format!("1: FLOCK  ADVISORY  WRITE 7 {file} 0 EOF\n"),
        )
    }

    #[test]
    fn a_sandbox_whose_lock_is_held_runs() {
        let (_root, directory, locks) = sandbox(Some(&state(Phase::Ready, BOOT)));
        let found = inspect(&directory, &locks, BOOT, 107);
        assert_eq!((found.namespace.as_str(), found.id.as_str()), ("ns", "box"));
        assert_eq!(found.status, Status::Running);
        assert_eq!(found.containers, ["c1"]);
        assert_eq!(found.age_seconds, Some(7));
    }

    #[test]
    fn without_the_lock_or_after_a_reboot_it_is_dead() {
        let (_root, directory, locks) = sandbox(Some(&state(Phase::Ready, BOOT)));
        assert_eq!(inspect(&directory, "", BOOT, 107).status, Status::Dead);
        assert_eq!(
            inspect(&directory, &locks, "another boot", 107).status,
            Status::Dead
        );
    }

    #[test]
    fn a_sandbox_without_state_is_being_made_or_was_never() {
        let (_root, directory, locks) = sandbox(None);
        assert_eq!(inspect(&directory, &locks, BOOT, 0).status, Status::Creating);
        let dead = inspect(&directory, "", BOOT, 0);
        assert_eq!(dead.status, Status::Dead);
        assert!(dead.reason.is_some());
    }

    #[test]
    fn an_unreadable_state_is_reported_with_its_sandbox() {
        let (_root, directory, locks) = sandbox(None);
        fs::write(directory.join("state.json"), "{").unwrap();
        let found = inspect(&directory, &locks, BOOT, 0);
        assert_eq!(found.status, Status::Running);
        assert!(found.reason.unwrap().contains("state.json"));
    }

    #[test]
    fn waiters_and_other_kinds_of_lock_do_not_count() {
        let line = |kind: &str| format!("1: {kind} ADVISORY WRITE 7 00:17:42 0 EOF");
        assert!(is_locked(&line("FLOCK"), 0x17, 42));
        assert!(!is_locked(&line("POSIX"), 0x17, 42));
        assert!(!is_locked(
            "1: -> FLOCK ADVISORY WRITE 7 00:17:42 0 EOF",
            0x17,
            42
        ));
        assert!(!is_locked(&line("FLOCK"), 0x17, 421));
    }

    #[test]
    fn a_node_without_sandboxes_has_an_empty_list() {
        assert_eq!(list(Path::new("/nonexistent")).unwrap(), []);
    }
}
