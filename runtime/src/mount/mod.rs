//! Mounts, by descriptor: what is looked up is looked up once, and a mount is made read-only before anyone
//! can see it.
//!
//! Needs Linux 5.12 (`mount_setattr`).

pub(crate) mod attributes;
mod loop_device;
mod table;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use displaydoc::Display;
use nix::mount::{MntFlags, umount2};
use thiserror::Error;

pub use loop_device::LoopDevice;
pub use table::mounts_below;
pub use tree::{DetachedTree, ReadOnly, TreeOptions, open_below, open_source};

/// What a mount operation failed at.
#[derive(Debug, Display, Error)]
pub enum MountError {
    /// cannot open {path}: {source}
    Open {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot create {path}: {source}
    Create {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot bind {path}: {source}
    Clone {
        /// The bind's source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot set the options of the mount of {path}: {source}
    Attributes {
        /// The mount's source.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot mount at {path}: {source}
    Attach {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot unmount {path}: {source}
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot attach {path} to a loop device: {source}
    Loop {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot read the mount table: {0}
    Table(#[source] io::Error),
}

/// Most mounts on top of each other at one place: whatever follows the host gets all that the host stacks there.
const MAX_STACKED: usize = 64;

/// Detaches the topmost mount at `path` and everything below it; fine if nothing is mounted there or the
/// path does not exist. A symbolic link at `path` is not followed.
///
/// # Errors
/// The kernel refuses for another reason.
pub fn detach(path: &Path) -> Result<(), MountError> {
    detach_one(path).map(drop)
}

/// Detaches every mount at `path`, as [`detach`] does the topmost.
///
/// # Errors
/// The kernel refuses.
pub fn detach_all(path: &Path) -> Result<(), MountError> {
    for _ in 0..MAX_STACKED {
        if !detach_one(path)? {
            break;
        }
    }
    Ok(())
}

/// Says whether there was one.
fn detach_one(path: &Path) -> Result<bool, MountError> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(true),
        // EINVAL: not a mount point.
        Err(nix::Error::EINVAL | nix::Error::ENOENT | nix::Error::ENOTDIR) => Ok(false),
        Err(errno) => Err(MountError::Unmount {
            path: path.into(),
            source: errno.into(),
        }),
    }
}
