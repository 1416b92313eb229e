//! Boots of one host take turns, and so do restores: as many of each at once as there are processors.
//!
//! Both are all computing, so that ten at once on two processors each take as long as all ten one after the
//! other, or longer, and may all be too late; two by two, most are early. A restore never waits for a boot,
//! which takes ten times as long.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

/// Below the state directory. No namespace of containerd's starts with a dot.
const DIRECTORY: &str = ".turns";
/// Between two looks for a turn.
const PAUSE: Duration = Duration::from_millis(10);
/// After this long without a turn, those who have them hang: going on is better then.
const PATIENCE: Duration = Duration::from_secs(30);

/// What there are turns for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Boot,
    Restore,
}

/// A turn. Over when dropped, or when this process dies.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: Option<File>,
}

impl Turn {
    /// Waits for a turn. Gives one in any case: order is a help, not a condition.
    pub async fn wait(state_dir: &Path, work: Work) -> Self {
        let turns = std::thread::available_parallelism().map_or(1, usize::from);
        Self::wait_for_one_of(state_dir, work, turns, PATIENCE).await
    }

    async fn wait_for_one_of(state_dir: &Path, work: Work, turns: usize, patience: Duration) -> Self {
        let until = Instant::now() + patience;
        loop {
            match take(state_dir, work, turns) {
                Ok(Some(lock)) => return Self { _lock: Some(lock) },
                Ok(None) if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                Ok(None) => {
                    tracing::warn!("no turn within {patience:?}: going on out of turn");
                    return Self { _lock: None };
                }
                Err(error) => {
                    tracing::warn!("cannot take turns in {}: {error}", state_dir.display());
                    return Self { _lock: None };
                }
            }
        }
    }
}

/// Takes a turn that nobody has, if there is one.
fn take(state_dir: &Path, work: Work, turns: usize) -> io::Result<Option<File>> {
    let directory = state_dir.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let kind = match work {
        Work::Boot => "boot",
        Work::Restore => "restore",
    };
    for turn in 0..turns {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(directory.join(format!("{kind}.{turn}")))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn there_are_so_many_turns_and_then_one_waits() {
        let state_dir = tempfile::tempdir().unwrap();
        let path = state_dir.path();
        let first = Turn::wait_for_one_of(path, Work::Boot, 2, LONG).await;
        let _second = Turn::wait_for_one_of(path, Work::Boot, 2, LONG).await;
        assert!(take(path, Work::Boot, 2).unwrap().is_none());
        assert!(take(path, Work::Restore, 2).unwrap().is_some());
        drop(first);
        assert!(
            Turn::wait_for_one_of(path, Work::Boot, 2, LONG)
                .await
                ._lock
                .is_some()
        );
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let state_dir = tempfile::tempdir().unwrap();
        let _only = Turn::wait_for_one_of(state_dir.path(), Work::Boot, 1, LONG).await;
        let late = Turn::wait_for_one_of(state_dir.path(), Work::Boot, 1, Duration::from_millis(1)).await;
        assert!(late._lock.is_none());
        let nowhere = Turn::wait_for_one_of(Path::new("/dev/null"), Work::Boot, 1, LONG).await;
        assert!(nowhere._lock.is_none());
    }
}
