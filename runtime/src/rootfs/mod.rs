//! The mounts containerd asks for at `<bundle>/rootfs`, made in order and undone in reverse.

pub mod disk_file;
pub mod layers;
pub mod mount_points;
pub mod on_disks;
mod options;
mod order;
mod overlay;
mod place;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use displaydoc::Display;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use thiserror::Error;

use crate::mount::{self, DetachedTree, LoopDevice, MountError, ReadOnly, TreeOptions, open_source};
use crate::undo::Undo;
use options::MountOptions;

/// One of the mounts that make up a container's root file system (`containerd.types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsMount {
    /// `overlay`, `bind`, `ext4`, `erofs`, ..
    pub fstype: String,
    /// Directory, block device, image file, or a word for file systems without a source.
    pub source: String,
    /// Relative to the root file system; empty is the root itself.
    pub target: PathBuf,
    /// As of mount(8).
    pub options: Vec<String>,
}

/// Why a root file system could not be mounted.
#[derive(Debug, Display, Error)]
pub enum RootfsError {
    /// {0} is not supported
    Unsupported(String),
    /// rootfs: {0}
    Mount(#[from] MountError),
    /// rootfs: cannot mount {fstype} file system {source_name} at {target}: {source}
    FileSystem {
        /// Its type.
        fstype: String,
        /// Its source.
        source_name: String,
        /// Where.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// disk {path}: {source}
    Disk {
        /// What should have been one.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// rootfs: cannot make {path}: {source}
    Make {
        /// A directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// rootfs: mount {index}: {reason}
    Invalid {
        /// Which of the mounts, from 0.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// containerd's mount manager runs the second itself, and we run the others in [`layers`].
const UNSUPPORTED_PREFIXES: [&str; 3] = ["format/", "mkfs/", "mkdir/"];

/// Makes `mounts` at `root`, a directory of the bundle, in order. What was made is undone by `undo`.
///
/// # Errors
/// Names the mount that failed; the earlier ones are left to `undo`.
pub fn mount_all(mounts: &[RootfsMount], root: &Path, undo: &mut Undo) -> Result<(), RootfsError> {
    for (index, mount) in mounts.iter().enumerate() {
        if let Some(prefix) = UNSUPPORTED_PREFIXES
            .iter()
            .find(|prefix| mount.fstype.starts_with(*prefix))
        {
            return Err(RootfsError::Unsupported(format!(
                "rootfs mount of type {prefix}*"
            )));
        }
        let options = MountOptions::parse(&mount.options)?;
        let target = open_target(root, &mount.target).map_err(RootfsError::Mount)?;
        if index == 0 && !mount.target.as_os_str().is_empty() {
            let reason = format!(
                "target {} comes before the root's own mount",
                mount.target.display()
            );
            return Err(RootfsError::Invalid { index, reason });
        }
        if mount.target.as_os_str().is_empty() {
            let point = root.to_owned();
            undo.push(format!("unmount {}", root.display()), move || {
                mount::detach(&point)
            });
        }
        if mount.fstype == "bind" || options.flags.contains(MsFlags::MS_BIND) {
            bind(mount, &options, &target, root)?;
        } else {
            file_system(mount, &options, &target, root)?;
        }
    }
    Ok(())
}

/// Opens a mount point. What is below the root belongs to the image, so links there stay inside it.
fn open_target(root: &Path, relative: &Path) -> Result<OwnedFd, MountError> {
    let open = |path: &Path, shown: PathBuf, directory: Option<&OwnedFd>| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = match directory {
            Some(_) => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            None => ResolveFlags::NO_MAGICLINKS,
        };
        let at = directory.map_or(rustix::fs::CWD, AsFd::as_fd);
        rustix::fs::openat2(at, path, flags, Mode::empty(), resolve).map_err(|errno| MountError::Open {
            path: shown,
            source: errno.into(),
        })
    };
    let root_fd = open(root, root.into(), None)?;
    if relative.as_os_str().is_empty() {
        return Ok(root_fd);
    }
    open(relative, root.join(relative), Some(&root_fd))
}

fn bind(
    mount: &RootfsMount,
    options: &MountOptions,
    target: &OwnedFd,
    root: &Path,
) -> Result<(), RootfsError> {
    let path = Path::new(&mount.source);
    let tree_options = TreeOptions {
        recursive: options.flags.contains(MsFlags::MS_REC),
        follows: false,
        read_only: if options.read_only() {
            ReadOnly::Top
        } else {
            ReadOnly::No
        },
        attributes: options.attributes(),
    };
    let tree = DetachedTree::clone_of(open_source(path)?.as_fd(), path, tree_options)?;
    Ok(tree.attach(target.as_fd(), &root.join(&mount.target))?)
}

fn file_system(
    request: &RootfsMount,
    options: &MountOptions,
    target: &OwnedFd,
    root: &Path,
) -> Result<(), RootfsError> {
    let mut loops = Vec::new();
    let mut source = request.source.clone();
    let mut data = options.data.clone();
    if options.on_loop {
        source = on_loop(Path::new(&source), options.read_only(), &mut loops)?;
        // Further devices of an erofs image are images too.
        for option in &mut data {
            if let Some(image) = option.strip_prefix("device=") {
                *option = format!("device={}", on_loop(Path::new(image), true, &mut loops)?);
            }
        }
    }
    let compacted = overlay::compact(&data);
    // The descriptor's link: nothing is looked up a second time.
    let at = format!("/proc/self/fd/{}", target.as_raw_fd());
    let call = || {
        mount(
            Some(source.as_str()),
            at.as_str(),
            Some(request.fstype.as_str()),
            options.flags,
            Some(compacted.data.as_str()),
        )
    };
    let result = match &compacted.directory {
        Some(directory) => in_directory(directory, call),
        None => call(),
    };
    result.map_err(|errno| RootfsError::FileSystem {
        fstype: request.fstype.clone(),
        source_name: request.source.clone(),
        target: root.join(&request.target),
        source: errno.into(),
    })
}

/// Attaches an image to a loop device, which lives until `loops` is dropped and then as long as its mount.
fn on_loop(image: &Path, read_only: bool, loops: &mut Vec<LoopDevice>) -> Result<String, MountError> {
    let device = LoopDevice::attach(image, read_only)?;
    let path = device.path().display().to_string();
    loops.push(device);
    Ok(path)
}

/// Runs `call` in `directory`, on a thread of its own: the working directory of all others stays.
fn in_directory<F>(directory: &Path, call: F) -> nix::Result<()>
where
    F: FnOnce() -> nix::Result<()> + Send,
{
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(directory)?;
            call()
        });
        // A panic in there could only be one of the three calls'.
        worker.join().unwrap_or(Err(nix::Error::ECANCELED))
    })
}

#[cfg(test)]
mod tests;
