//! The sandbox's directory, and the lock that says whether it is in use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::{ErrorKind, SandboxError};
use crate::mount::mounts_below;

/// Name of the lifecycle lock.
pub(crate) const LOCK: &str = "lock";
/// Nobody but root has business in here.
const MODE: u32 = 0o700;
/// Between two looks at a lock that is taken.
const PAUSE: Duration = Duration::from_millis(5);

/// Where a sandbox keeps its things.
pub(crate) fn path_of(state_dir: &Path, namespace: &str, sandbox: &str) -> PathBuf {
    state_dir.join(namespace).join(sandbox)
}

/// Makes the directory and takes its lock, which every process of the VM will inherit. Waits for a sandbox of
/// this name that is still ending.
///
/// # Errors
/// `AlreadyExists`: some process of a sandbox of this name still runs.
pub(super) fn claim(directory: &Path, patience: Duration) -> Result<File, SandboxError> {
    let failed = |source: io::Error| {
        SandboxError::new(
            ErrorKind::Internal,
            format!("cannot make {}: {source}", directory.display()),
        )
    };
    let until = Instant::now() + patience;
    loop {
        match try_claim(directory) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(None) => {
                let message = format!("sandbox {} is still running", directory.display());
                return Err(SandboxError::new(ErrorKind::AlreadyExists, message));
            }
            // The namespace's directory went with its last sandbox, between our two steps.
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < until => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// As [`claim`], but `None` for a sandbox of which some process runs, or which is just going.
pub(crate) fn try_claim(directory: &Path) -> io::Result<Option<File>> {
    make(directory)?;
    let lock = open_lock(directory)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    }
    // The sandbox that had it may have removed it in the meantime: then this is nobody's lock.
    let (ours, there) = (lock.metadata()?, fs::metadata(directory.join(LOCK))?);
    Ok((ours.ino() == there.ino() && ours.dev() == there.dev()).then_some(lock))
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(MODE).create(directory)
}

/// Opens the lock, which the caller then takes.
pub(crate) fn open_lock(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(directory.join(LOCK))
}

/// Removes the directory and what is in it, unless something is mounted in there: that is never ours to
/// delete. Removes the namespace's directory too, if this was its last sandbox. The caller holds the lock.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    let mounts = mounts_below(directory).map_err(io::Error::other)?;
    if let Some(mount) = mounts.first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    clear(directory)?;
    // The lock goes last: from then on the directory is a successor's, who may have put a lock of its own.
    found(fs::remove_file(directory.join(LOCK)))?;
    match found(fs::remove_dir(directory)) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(()),
        other => other?,
    }
    if let Some(namespace) = directory.parent() {
        // Fails as long as another sandbox is in there.
        fs::remove_dir(namespace).ok();
    }
    Ok(())
}

/// Removes everything in the directory but the lock.
pub(crate) fn clear(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        let removed = if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        found(removed).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", entry.path().display())))?;
    }
    Ok(())
}

/// What is gone already need not be removed.
fn found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_private_mounts;

    /// Long enough to fail a test by, where it should succeed.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_sandbox_that_is_ending_is_waited_for() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = path_of(state_dir.path(), "ns", "s1");
        let old = claim(&directory, PATIENCE).unwrap();
        std::thread::scope(|scope| {
            let new = scope.spawn(|| claim(&directory, PATIENCE).unwrap());
            remove(&directory).unwrap();
            drop(old);
            let lock = new.join().unwrap();
            assert_eq!(
                lock.metadata().unwrap().ino(),
                fs::metadata(directory.join(LOCK)).unwrap().ino()
            );
        });
    }

    /// Enough turns for the two to meet at every step of a removal.
    const TURNS: usize = 300;

    #[test]
    fn a_successor_loses_nothing_to_the_removal_of_its_predecessor() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = path_of(state_dir.path(), "ns", "s1");
        let live = |name: &str| {
            for _ in 0..TURNS {
                let lock = claim(&directory, PATIENCE).unwrap();
                fs::write(directory.join(name), name).unwrap();
                let mut names: Vec<_> = fs::read_dir(&directory)
                    .unwrap()
                    .map(|e| e.unwrap().file_name())
                    .collect();
                names.sort();
                assert_eq!(names, [name, LOCK]);
                remove(&directory).unwrap();
                drop(lock);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| live("a"));
            scope.spawn(|| live("b"));
        });
        assert!(!directory.exists());
    }

    #[test]
    fn a_sandbox_in_use_is_not_claimed_again() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = path_of(state_dir.path(), "ns", "s1");
        let claim = |directory: &Path| claim(directory, Duration::ZERO);
        let lock = claim(&directory).unwrap();
        assert_eq!(claim(&directory).unwrap_err().kind(), ErrorKind::AlreadyExists);
        drop(lock);
        claim(&directory).unwrap();
        let other = path_of(state_dir.path(), "ns", "s2");
        claim(&other).unwrap();
        remove(&directory).unwrap();
        assert!(other.exists() && !directory.exists());
        remove(&other).unwrap();
        remove(&other).unwrap();
        assert!(!state_dir.path().join("ns").exists());
    }

    #[test]
    fn what_is_mounted_inside_is_never_deleted() {
        in_private_mounts(|| {
            let state_dir = tempfile::tempdir().unwrap();
            let directory = path_of(state_dir.path(), "ns", "s1");
            let inside = directory.join("inside");
            fs::create_dir_all(&inside).unwrap();
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("t"), &inside, Some("tmpfs"), flags, None::<&str>).unwrap();
            fs::write(inside.join("precious"), "").unwrap();
            assert!(remove(&directory).is_err());
            assert!(inside.join("precious").exists());
            crate::mount::detach(&inside).unwrap();
            remove(&directory).unwrap();
        });
    }
}
