//! Saved VMs: one per class of vCPUs and memory, booted once and restored for every sandbox of the class.
//!
//! [`Key`] names everything that shapes a saved VM; [`Store`] keeps their files, each with a [`Header`] that
//! repeats the key. [`build`] makes one, and [`background`] has that done after a cold boot. A sandbox asks
//! [`find`]; whatever is wrong with a template, the answer is that there is none. docs/templates.md says more.

mod background;
mod build;
mod header;
mod key;
mod own;
mod store;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use background::{LOWERED_BY, build_soon};
pub use build::{Built, build};
pub use header::Header;
pub use key::{FileIdentity, Key};
pub use store::{Draft, Found, Saved, Store};

use crate::config::Config;
use crate::counters::{self, Event, Rejection};
use crate::sandbox::SandboxError;
use crate::vmm::{VmShape, Vmm, VmmError};

/// Why there is no template.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum TemplateError {
    /// {path}: {source}
    File {
        /// Which file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// {path} is not to be trusted: {reason}
    Foreign {
        /// Which file or directory.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// {path} is not whole: {reason}
    Torn {
        /// Which file.
        path: PathBuf,
        /// What is missing.
        reason: &'static str,
    },
    /// {0} is of another VM than its name says
    Stale(PathBuf),
    /// this monitor cannot save VMs
    Unsupported,
    /// another process is building it
    Busy,
    /// it takes {needs_mib} MiB, and templates may take {max_mib} MiB in all
    TooLarge {
        /// What it takes on disk.
        needs_mib: u64,
        /// The configured limit.
        max_mib: u32,
    },
    /// {0}
    Vmm(#[from] VmmError),
    /// {0}
    Sandbox(#[from] SandboxError),
    /// building it took more than {0} seconds
    Slow(u64),
    /// {0} panicked
    Panicked(&'static str),
}

/// A template for a sandbox, or what is known instead.
#[derive(Debug)]
pub enum Answer {
    /// The file of a saved VM, open for reading, and how to give it up.
    Restore(OwnedFd, Key),
    /// There is none, and one may be built.
    Build,
    /// There is none, and none is to be built: templates are off, or building one has failed lately.
    Boot,
}

/// Looks for a template. What is wrong with one that is there is logged, in one line.
pub async fn find(config: &Config, vmm: &dyn Vmm, shape: &VmShape) -> Answer {
    if !config.templates {
        return Answer::Boot;
    }
    let key = match Key::of(config, vmm, shape).await {
        Ok(key) => key,
        // A monitor without a program does not boot either, and says so then.
        Err(TemplateError::Unsupported | TemplateError::Vmm(_)) => return Answer::Boot,
        Err(error) => {
            tracing::warn!("no template: {error}");
            return Answer::Boot;
        }
    };
    let store = Store::new(config);
    let look = move || {
        let found = store.find(&key);
        (store, key, found)
    };
    let Ok((store, key, found)) = tokio::task::spawn_blocking(look).await else {
        return Answer::Boot;
    };
    match found {
        Ok(Found::Usable(file)) => return Answer::Restore(file, key),
        Ok(Found::Absent) => {}
        Err(error) => {
            tracing::warn!("no template: {error}");
            counters::count(&config.state_dir, Event::Rejected(error.rejection()));
        }
    }
    if store.has_failed_lately(&key) {
        Answer::Boot
    } else {
        Answer::Build
    }
}

/// Gives up a template that could not be restored: it is removed, and not built again for a while.
pub fn discard(config: &Config, key: &Key, reason: &str) {
    Store::new(config).discard(key, reason);
    counters::count(&config.state_dir, Event::Rejected(Rejection::Failed));
}

impl TemplateError {
    /// Of a template that was found: what was wrong with it.
    fn rejection(&self) -> Rejection {
        match self {
            Self::Torn { .. } => Rejection::Torn,
            Self::Stale(_) => Rejection::Stale,
            Self::Foreign { .. } => Rejection::Foreign,
            _ => Rejection::Unreadable,
        }
    }
}
