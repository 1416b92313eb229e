//! The sandbox's state file, kept up to date by its owner.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::state::{Phase, SandboxState, StateError};

/// The state in memory and on disk, changed together.
#[derive(Debug)]
pub(super) struct Record {
    directory: PathBuf,
    state: Mutex<SandboxState>,
}

impl Record {
    /// Writes the first state.
    pub fn create(directory: &Path, state: SandboxState) -> Result<Self, StateError> {
        state.write(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// Changes the state. To be called before what the change names is made, and after it is gone.
    pub fn update(&self, change: impl FnOnce(&mut SandboxState)) -> Result<(), StateError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.write(&self.directory)
    }

    /// Notes why the sandbox has ended, unless it is being shut down: then its directory may be gone already.
    pub fn note_end(&self, reason: &str) {
        let phase = self.state.lock().unwrap_or_else(PoisonError::into_inner).phase;
        if phase == Phase::Draining {
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
        if let Err(error) = self.update(change) {
            tracing::warn!("{error}");
        }
    }
}
