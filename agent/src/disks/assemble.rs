//! A root file system, put together from disks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bulkhead_agent_protocol::message::{Directory, FailureKind, Place, RootMount};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::failure::Failure;

/// Name of the container's root, in its directory.
const ROOT: &str = "root";
/// Nobody but the agent looks in: containers see their root alone.
const PRIVATE: u32 = 0o700;
/// What can be on a disk; anything else in a message is not mounted.
const FILE_SYSTEMS: [&str; 2] = ["erofs", "ext4"];

/// Flags of mount(2) for one mount, and what `fsmount(2)` calls them.
const ATTRIBUTES: [(u64, MountAttrFlags); 8] = [
    (libc::MS_RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
    (libc::MS_NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
    (libc::MS_NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
    (libc::MS_NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    (libc::MS_NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
    (libc::MS_STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
    (libc::MS_NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    (libc::MS_RELATIME, MountAttrFlags::MOUNT_ATTR_RELATIME),
];
/// Flags of mount(2) for the file system, and what it calls them.
const FLAGS: [(u64, &str); 3] = [
    (libc::MS_RDONLY, "ro"),
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
];

/// One root file system in the making.
#[derive(Debug)]
pub struct Assembly<'a> {
    directory: PathBuf,
    nodes: &'a [PathBuf],
}

impl<'a> Assembly<'a> {
    /// In `directory`, from the disks with these device nodes.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(directory: PathBuf, nodes: &'a [PathBuf]) -> Result<Self, Failure> {
        make(&directory).map_err(failed(format!("make {}", directory.display())))?;
        Ok(Self { directory, nodes })
    }

    /// Mounts everything in order and returns the root. The mounts that it is made of are then out of sight: it
    /// holds what it needs of them.
    ///
    /// # Errors
    /// `InvalidArgument` or `Mount`, naming the mount. What has been mounted is for [`take_apart`].
    pub fn mount(&self, mounts: &[RootMount]) -> Result<PathBuf, Failure> {
        let Some(last) = mounts.len().checked_sub(1) else {
            return Err(Failure::invalid("disks without a root file system on them"));
        };
        for (index, mount) in mounts.iter().enumerate() {
            let point = if index == last {
                self.directory.join(ROOT)
            } else {
                self.point(index)
            };
            let stage = || format!("mount {} {index} of the root file system", mount.fstype);
            make(&point).map_err(failed(stage()))?;
            for directory in &mount.directories {
                self.make_directory(directory, index)?;
            }
            let tree = self.tree(mount, index)?;
            let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, &point, empty).map_err(failed_os(stage()))?;
        }
        for index in 0..last {
            let point = self.point(index);
            unmount(&point, UnmountFlags::DETACH)
                .map_err(failed_os(format!("detach {}", point.display())))?;
        }
        Ok(self.directory.join(ROOT))
    }

    fn point(&self, index: usize) -> PathBuf {
        self.directory.join(index.to_string())
    }

    /// What is to be mounted, attached nowhere yet.
    fn tree(&self, mount: &RootMount, index: usize) -> Result<OwnedFd, Failure> {
        match mount.fstype.as_str() {
            "overlay" => self.overlay(mount, index),
            "bind" => {
                let source = mount
                    .source
                    .as_ref()
                    .ok_or_else(|| Failure::invalid("a bind without a source"))?;
                let source = self.open(source, index)?;
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                open_tree(source, "", flags).map_err(failed_os("bind the root file system"))
            }
            fstype if FILE_SYSTEMS.contains(&fstype) => {
                let disk = mount
                    .disk
                    .ok_or_else(|| Failure::invalid(format!("{fstype} without a disk")))?;
                let node = self.node(disk)?;
                let devices = mount
                    .devices
                    .iter()
                    .map(|disk| self.node(*disk))
                    .collect::<Result<Vec<_>, _>>()?;
                let stage = format!("mount {fstype} on disk {disk}");
                create(mount, |context| {
                    fsconfig_set_string(context, "source", node)?;
                    devices
                        .iter()
                        .try_for_each(|device| fsconfig_set_string(context, "device", *device))
                })
                .map_err(failed_os(stage))
            }
            other => Err(Failure::invalid(format!("{other} is not mounted from disks"))),
        }
    }

    fn overlay(&self, mount: &RootMount, index: usize) -> Result<OwnedFd, Failure> {
        let path = |place: &Place| self.path(place, index);
        let lower = mount.lower.iter().map(path).collect::<Result<Vec<_>, _>>()?;
        let upper = mount.upper.as_ref().map(path).transpose()?;
        let work = mount.work.as_ref().map(path).transpose()?;
        create(mount, |context| {
            // One by one: together they would not fit into a page.
            for lower in &lower {
                fsconfig_set_string(context, "lowerdir+", lower)?;
            }
            for (key, place) in [("upperdir", &upper), ("workdir", &work)] {
                if let Some(place) = place {
                    fsconfig_set_string(context, key, place)?;
                }
            }
            Ok(())
        })
        .map_err(failed_os(format!("mount an overlay of {} layers", lower.len())))
    }

    fn node(&self, disk: u32) -> Result<&Path, Failure> {
        let node = usize::try_from(disk).ok().and_then(|disk| self.nodes.get(disk));
        node.map(PathBuf::as_path)
            .ok_or_else(|| Failure::invalid(format!("there is no disk {disk}")))
    }

    /// The path of a place, which was looked up without leaving its mount.
    fn path(&self, place: &Place, before: usize) -> Result<PathBuf, Failure> {
        self.open(place, before)?;
        Ok(self.root_of(place, before)?.join(&place.path))
    }

    fn root_of(&self, place: &Place, before: usize) -> Result<PathBuf, Failure> {
        let index = usize::try_from(place.mount).ok().filter(|index| *index < before);
        index
            .map(|index| self.point(index))
            .ok_or_else(|| Failure::invalid(format!("mount {} does not come before {before}", place.mount)))
    }

    fn open(&self, place: &Place, before: usize) -> Result<OwnedFd, Failure> {
        let root = self.root_of(place, before)?;
        open_below(&root, Path::new(&place.path))
            .map_err(failed_os(format!("open {} of mount {}", place.path, place.mount)))
    }

    fn make_directory(&self, directory: &Directory, before: usize) -> Result<(), Failure> {
        let place = directory
            .place
            .as_ref()
            .ok_or_else(|| Failure::invalid("a directory without a place"))?;
        let path = Path::new(&place.path);
        let (Some(name), parent) = (path.file_name(), path.parent().unwrap_or(Path::new(""))) else {
            return Err(Failure::invalid(format!("no directory can be made at {path:?}")));
        };
        let root = self.root_of(place, before)?;
        let stage = || format!("make {} in mount {}", place.path, place.mount);
        let parent = open_below(&root, parent).map_err(failed_os(stage()))?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(directory.mode)) {
            // As its creator left it.
            Err(Errno::EXIST) => Ok(()),
            // The mode was cut by the umask.
            Ok(()) => rustix::fs::chmodat(
                &parent,
                name,
                Mode::from_raw_mode(directory.mode),
                AtFlags::empty(),
            )
            .map_err(failed_os(stage())),
            Err(errno) => Err(failed_os(stage())(errno)),
        }
    }
}

/// Unmounts what [`Assembly::mount`] left in `directory`, all or half of it, and removes the directory.
///
/// # Errors
/// `Mount`.
pub fn take_apart(directory: &Path) -> Result<(), Failure> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed(format!("read {}", directory.display())))?,
    };
    let mut points: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    // The root was made of the others.
    points.sort_by_key(|point| !point.ends_with(ROOT));
    for point in points {
        let stage = || format!("unmount {}", point.display());
        write_back(&point);
        loop {
            match unmount_one(&point) {
                Ok(true) => {}
                Ok(false) => break,
                Err(errno) => return Err(failed_os(stage())(errno)),
            }
        }
        fs::remove_dir(&point).map_err(failed(stage()))?;
    }
    fs::remove_dir(directory).map_err(failed(format!("remove {}", directory.display())))
}

/// Whether there was something mounted.
fn unmount_one(point: &Path) -> Result<bool, Errno> {
    match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// While it still has a name. What cannot be written back is lost with a disk that fails.
fn write_back(point: &Path) {
    let outcome = fs::File::open(point).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    if let Err(error) = outcome {
        eprintln!("write {} back: {error}", point.display());
    }
}

/// Makes a file system with the order's options, after its sources.
fn create(mount: &RootMount, sources: impl FnOnce(&OwnedFd) -> Result<(), Errno>) -> Result<OwnedFd, Errno> {
    let context = fsopen(mount.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    sources(&context)?;
    for (flag, name) in FLAGS {
        if mount.flags & flag != 0 {
            fsconfig_set_flag(context.as_fd(), name)?;
        }
    }
    for option in &mount.options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), option.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = ATTRIBUTES
        .into_iter()
        .filter(|(flag, _)| mount.flags & flag != 0)
        .fold(MountAttrFlags::empty(), |all, (_, attribute)| all | attribute);
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn open_below(root: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty())?;
    if path.as_os_str().is_empty() {
        return Ok(root);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)
}

fn make(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(directory)
}

fn failed(stage: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let stage = stage.into();
    move |error| Failure::os(FailureKind::Mount, stage, &error)
}

fn failed_os(stage: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let failed = failed(stage);
    move |errno| failed(errno.into())
}
