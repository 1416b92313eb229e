//! Mount trees that are attached nowhere yet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use super::MountError;
use super::attributes::{Attributes, change};

/// A copy of a mount tree, gone when dropped unless it was attached.
#[derive(Debug)]
pub struct DetachedTree(OwnedFd);

/// How much of a tree is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadOnly {
    /// As the source is.
    #[default]
    No,
    /// The mount itself, not what is mounted below it (`ro`).
    Top,
    /// Everything (`rro`).
    All,
}

/// How a tree is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeOptions {
    /// Take what is mounted below along (`rbind`).
    pub recursive: bool,
    /// Mounts made and taken away in the source later are followed; nothing goes the other way.
    pub follows: bool,
    /// What may not be written.
    pub read_only: ReadOnly,
    /// `MOUNT_ATTR_*` that hold for every mount of the tree.
    pub attributes: u64,
}

/// Opens the source of a mount, once: whatever is done to the path afterwards changes nothing. Symbolic
/// links are followed, the magic ones of /proc are not.
///
/// # Errors
/// There is no such file.
pub fn open_source(path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat2(
        rustix::fs::CWD,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|errno| MountError::Open {
        path: path.into(),
        source: errno.into(),
    })
}

/// Opens `path` below `directory` without ever following a link or leaving it; `shown` is for messages.
///
/// # Errors
/// There is no such file, or something on the way is a link.
pub fn open_below(directory: BorrowedFd<'_>, path: &Path, shown: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve).map_err(|errno| MountError::Open {
        path: shown.into(),
        source: errno.into(),
    })
}

impl DetachedTree {
    /// Copies the tree at `source`. Unless it is to follow, the copy is private: mounts made in the source
    /// later do not show up. `shown` is for messages.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clone_of(source: BorrowedFd<'_>, shown: &Path, options: TreeOptions) -> Result<Self, MountError> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        if options.recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = rustix::mount::open_tree(source, "", flags).map_err(|errno| MountError::Clone {
            path: shown.into(),
            source: errno.into(),
        })?;
        let tree = Self(tree);
        let all = if options.read_only == ReadOnly::All {
            libc::MOUNT_ATTR_RDONLY
        } else {
            0
        };
        let whole = Attributes {
            set: options.attributes | all,
            propagation: if options.follows {
                libc::MS_SLAVE
            } else {
                libc::MS_PRIVATE
            },
        };
        let top = Attributes {
            set: libc::MOUNT_ATTR_RDONLY,
            propagation: 0,
        };
        let changed =
            change(tree.0.as_fd(), options.recursive, whole).and_then(|()| match options.read_only {
                ReadOnly::Top => change(tree.0.as_fd(), false, top),
                ReadOnly::No | ReadOnly::All => Ok(()),
            });
        match changed {
            Ok(()) => Ok(tree),
            Err(source) => Err(MountError::Attributes {
                path: shown.into(),
                source,
            }),
        }
    }

    /// Mounts the tree at `target`; `shown` is for messages.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&self, target: BorrowedFd<'_>, shown: &Path) -> Result<(), MountError> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(self.0.as_fd(), "", target, "", flags).map_err(|errno| MountError::Attach {
            path: shown.into(),
            source: errno.into(),
        })
    }

    /// Makes an attached tree's top shared: mounts made in it also appear in copies made of it later.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn share(&self, shown: &Path) -> Result<(), MountError> {
        change(
            self.0.as_fd(),
            false,
            Attributes {
                set: 0,
                propagation: libc::MS_SHARED,
            },
        )
        .map_err(|source| MountError::Attributes {
            path: shown.into(),
            source,
        })
    }
}

impl AsFd for DetachedTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
