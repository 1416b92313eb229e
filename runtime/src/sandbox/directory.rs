//! The sandbox's directory, and the lock that says whether it is in use.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{ErrorKind, SandboxError};
use crate::mount::mounts_below;

/// Name of the lifecycle lock.
pub(crate) const LOCK: &str = "lock";
/// Nobody but root has business in here.
const MODE: u32 = 0o700;
/// Another sandbox of the namespace may remove the namespace's directory between our two steps.
const ATTEMPTS: u32 = 8;

/// Where a sandbox keeps its things.
pub(crate) fn path_of(state_dir: &Path, namespace: &str, sandbox: &str) -> PathBuf {
    state_dir.join(namespace).join(sandbox)
}

/// Makes the directory and takes its lock, which every process of the VM will inherit.
///
/// # Errors
/// `AlreadyExists`: some process of a sandbox of this name still runs.
pub(super) fn claim(directory: &Path) -> Result<File, SandboxError> {
    let failed = |source: io::Error| {
        SandboxError::new(
            ErrorKind::Internal,
            format!("cannot make {}: {source}", directory.display()),
        )
    };
    let mut attempt = 1;
    let lock = loop {
        match make(directory).and_then(|()| open_lock(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < ATTEMPTS => attempt += 1,
            result => break result.map_err(failed)?,
        }
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let message = format!("sandbox {} is still running", directory.display());
            Err(SandboxError::new(ErrorKind::AlreadyExists, message))
        }
        Err(errno) => Err(failed(errno.into())),
    }
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
/// delete. Removes the namespace's directory too, if this was its last sandbox.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    let mounts = mounts_below(directory).map_err(io::Error::other)?;
    if let Some(mount) = mounts.first() {
        return Err(io::Error::other(format!("{} is still mounted", mount.display())));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(namespace) = directory.parent() {
        // Fails as long as another sandbox is in there.
        fs::remove_dir(namespace).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_private_mounts;

    #[test]
    fn a_sandbox_in_use_is_not_claimed_again() {
        let state_dir = tempfile::tempdir().unwrap();
        let directory = path_of(state_dir.path(), "ns", "s1");
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
