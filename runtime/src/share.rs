//! The tree of a sandbox that the guest sees.
//!
//! Two directories: `tree` is plain and only the host's; `shared` is the same directory bound on itself,
//! read-only and with shared propagation, and is what the file-sharing server exports. A container's root
//! file system and volumes are mounted at `shared/<id>/rootfs` and `shared/<id>/mounts/<index>`. The guest
//! can write into those mounts that are writable and nowhere else, so it can never plant a link where the
//! host is about to mount. See docs/sharing.md.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_oci::BindMount;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::mount::{self, DetachedTree, MountError, ReadOnly, TreeOptions, open_below, open_source};
use crate::undo::Undo;

/// Name of the exported directory below the sandbox's.
pub const SHARED: &str = "shared";
/// Name of the host's own view of the same directory.
pub const TREE: &str = "tree";
/// Nobody but root looks in from the host.
const DIRECTORY_MODE: Mode = Mode::RWXU;
/// Devices work by the guest's kernel, never by opening a node of the host.
const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NODEV;

/// A sandbox's share.
#[derive(Debug)]
pub struct SharedTree {
    path: PathBuf,
    tree: OwnedFd,
    shared: OwnedFd,
}

/// One container's part of it.
#[derive(Debug)]
pub struct ContainerShare<'a> {
    share: &'a SharedTree,
    id: PathBuf,
}

impl SharedTree {
    /// Makes an empty share in the sandbox's directory.
    ///
    /// # Errors
    /// A directory or mount could not be made.
    pub fn create(sandbox_dir: &Path, undo: &mut Undo) -> Result<Self, MountError> {
        let directory = open_source(sandbox_dir)?;
        let tree = make_directory(directory.as_fd(), Path::new(TREE), &sandbox_dir.join(TREE), undo)?;
        let path = sandbox_dir.join(SHARED);
        let target = make_directory(directory.as_fd(), Path::new(SHARED), &path, undo)?;

        let options = TreeOptions {
            read_only: ReadOnly::Top,
            attributes: ATTRIBUTES,
            ..TreeOptions::default()
        };
        let mount = DetachedTree::clone_of(tree.as_fd(), &path, options)?;
        undo_mount(&path, undo);
        mount.attach(target.as_fd(), &path)?;
        mount.share(&path)?;
        let shared = open_below(directory.as_fd(), Path::new(SHARED), &path)?;
        Ok(Self { path, tree, shared })
    }

    /// The exported directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy of the root file system's mounts, for an anchor to have as its root.
    ///
    /// # Errors
    /// There is no root file system yet, or the kernel refuses.
    pub fn root_tree(&self, id: &str) -> Result<DetachedTree, MountError> {
        let rootfs = Path::new(id).join("rootfs");
        let shown = self.path.join(&rootfs);
        let root = open_below(self.shared.as_fd(), &rootfs, &shown)?;
        DetachedTree::clone_of(
            root.as_fd(),
            &shown,
            TreeOptions {
                recursive: true,
                ..TreeOptions::default()
            },
        )
    }

    /// Makes a container's part, empty. `id` is a valid id, and so one path component.
    ///
    /// # Errors
    /// A directory could not be made; one that exists is an error.
    pub fn container(&self, id: &str, undo: &mut Undo) -> Result<ContainerShare<'_>, MountError> {
        let id = PathBuf::from(id);
        make_directory(self.tree.as_fd(), &id, &self.path.join(&id), undo)?;
        let mounts = id.join("mounts");
        make_directory(self.tree.as_fd(), &mounts, &self.path.join(&mounts), undo)?;
        Ok(ContainerShare { share: self, id })
    }
}

impl ContainerShare<'_> {
    /// Shows `rootfs`, with everything mounted below it, as the container's root file system.
    ///
    /// # Errors
    /// The source is missing, or the kernel refuses.
    pub fn add_rootfs(&self, rootfs: &Path, read_only: bool, undo: &mut Undo) -> Result<(), MountError> {
        let options = TreeOptions {
            recursive: true,
            follows: false,
            read_only: if read_only { ReadOnly::Top } else { ReadOnly::No },
            attributes: ATTRIBUTES,
        };
        self.add(&self.id.join("rootfs"), rootfs, options, undo)
    }

    /// Shows an empty directory in the root file system's place, for a container that has its own on disks.
    ///
    /// # Errors
    /// It could not be made.
    pub fn add_empty_rootfs(&self, undo: &mut Undo) -> Result<(), MountError> {
        let place = self.id.join("rootfs");
        let shown = self.share.path.join(&place);
        make_directory(self.share.tree.as_fd(), &place, &shown, undo).map(drop)
    }

    /// Shows a directory, file or special file of the host.
    ///
    /// # Errors
    /// The source is missing, or the kernel refuses.
    pub fn add_bind(&self, bind: &BindMount, undo: &mut Undo) -> Result<(), MountError> {
        let read_only = match (bind.read_only, bind.recursive_read_only) {
            (_, true) => ReadOnly::All,
            (true, false) => ReadOnly::Top,
            (false, false) => ReadOnly::No,
        };
        let options = TreeOptions {
            recursive: bind.recursive,
            follows: bind.follows_host,
            read_only,
            attributes: ATTRIBUTES,
        };
        self.add(
            &self.id.join("mounts").join(bind.index.to_string()),
            &bind.source,
            options,
            undo,
        )
    }

    fn add(
        &self,
        place: &Path,
        source: &Path,
        options: TreeOptions,
        undo: &mut Undo,
    ) -> Result<(), MountError> {
        let shown = self.share.path.join(place);
        let source_fd = open_source(source)?;
        let mount = DetachedTree::clone_of(source_fd.as_fd(), source, options)?;
        if is_directory(source_fd.as_fd(), source)? {
            make_directory(self.share.tree.as_fd(), place, &shown, undo)?;
        } else {
            make_file(self.share.tree.as_fd(), place, &shown, undo)?;
        }
        let target = open_below(self.share.shared.as_fd(), place, &shown)?;
        undo_mount(&shown, undo);
        mount.attach(target.as_fd(), &shown)
    }
}

fn is_directory(fd: BorrowedFd<'_>, path: &Path) -> Result<bool, MountError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| MountError::Open {
        path: path.into(),
        source: errno.into(),
    })?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn make_directory(
    at: BorrowedFd<'_>,
    place: &Path,
    shown: &Path,
    undo: &mut Undo,
) -> Result<OwnedFd, MountError> {
    undo_entry(at, place, shown, AtFlags::REMOVEDIR, undo)?;
    rustix::fs::mkdirat(at, place, DIRECTORY_MODE).map_err(|errno| MountError::Create {
        path: shown.into(),
        source: errno.into(),
    })?;
    open_below(at, place, shown)
}

/// Makes an empty file for a file to be mounted on.
fn make_file(at: BorrowedFd<'_>, place: &Path, shown: &Path, undo: &mut Undo) -> Result<(), MountError> {
    undo_entry(at, place, shown, AtFlags::empty(), undo)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, place, flags, Mode::RUSR).map_err(|errno| MountError::Create {
        path: shown.into(),
        source: errno.into(),
    })?;
    Ok(())
}

/// Registers the removal of a file or empty directory. What was there before is an error, not ours to undo.
fn undo_entry(
    at: BorrowedFd<'_>,
    place: &Path,
    shown: &Path,
    flags: AtFlags,
    undo: &mut Undo,
) -> Result<(), MountError> {
    let failed = |source: io::Error| MountError::Create {
        path: shown.into(),
        source,
    };
    match rustix::fs::statat(at, place, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    let at = at.try_clone_to_owned().map_err(failed)?;
    let place = place.to_owned();
    undo.push(
        format!("remove {}", shown.display()),
        move || match rustix::fs::unlinkat(at, &place, flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(io::Error::from(errno)),
        },
    );
    Ok(())
}

fn undo_mount(point: &Path, undo: &mut Undo) {
    let point = point.to_owned();
    undo.push(format!("unmount {}", point.display()), move || {
        mount::detach_all(&point)
    });
}

#[cfg(test)]
mod tests;
