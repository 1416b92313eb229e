//! The sandbox's state file, kept up to date by its owner.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::state::{Phase, SandboxState, StateError};

/// The state in memory and on disk, changed together.
#[derive(Debug)]
pub(super) struct Record {
    directory: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    state: SandboxState,
    /// The directory is being removed: nothing may appear in it any more.
    is_closed: bool,
}

impl Record {
    /// Writes the first state.
    pub fn create(directory: &Path, state: SandboxState) -> Result<Self, StateError> {
        state.write(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            kept: Mutex::new(Kept {
                state,
                is_closed: false,
            }),
        })
    }

    /// Changes the state. To be called before what the change names is made, and after it is gone.
    ///
    /// # Errors
    /// The file cannot be written, or the sandbox is being removed.
    pub fn update(&self, change: impl FnOnce(&mut SandboxState)) -> Result<(), StateError> {
        let mut kept = self.lock();
        if kept.is_closed {
            return Err(StateError::Removed(self.directory.clone()));
        }
        change(&mut kept.state);
        kept.state.write(&self.directory)
    }

    /// Notes why the sandbox has ended, unless it is being shut down.
    pub fn note_end(&self, reason: &str) {
        if self.lock().state.phase == Phase::Draining {
            return;
        }
        self.forget(|state| {
            state.phase = Phase::Failed;
            state.reason = Some(reason.to_owned());
        });
    }

    /// [`Record::update`] where a full disk must not stand in the way: what the file names beyond what is
    /// there does no harm.
    pub fn forget(&self, change: impl FnOnce(&mut SandboxState)) {
        match self.update(change) {
            // Then nothing is left to be forgotten.
            Ok(()) | Err(StateError::Removed(_)) => {}
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// Writes nothing any more, because the directory is about to go.
    pub fn close(&self) {
        self.lock().is_closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
