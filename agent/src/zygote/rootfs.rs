//! A container's root: made ready from outside, entered, and finished from inside.

use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};
use oci_spec::runtime::{Linux, Spec};

use super::ready_made::ReadyMade;
use super::root::Root;
use super::{devices, hidden_paths, mounts};
use crate::failure::Failure;
use crate::sys::mount::{Attributes, change};

/// Keeps what is mounted in this namespace from now on from showing up where it was copied from. What is mounted
/// there still shows up here.
///
/// # Errors
/// `Mount`.
pub fn part() -> Result<(), Failure> {
    set_propagation(MsFlags::MS_SLAVE)
}

/// Binds the root to a mount of its own, and mounts and makes in it what `spec` lists; takes of `ready` what is wanted.
/// After [`part`].
///
/// # Errors
/// `Mount`, in runc's words.
pub fn prepare(spec: &Spec, mut ready: ReadyMade) -> Result<Root, Failure> {
    let path = spec
        .root()
        .as_ref()
        .map_or(Path::new(""), |root| root.path().as_path());
    let failed = |stage: String| move |errno: Errno| Failure::os(FailureKind::Mount, stage, &errno);
    if propagation(spec) == Some("private") {
        set_propagation(MsFlags::MS_PRIVATE)?;
    }
    let has_devices = ready.keep_for(spec);
    Root::open(path)
        .and_then(|_| bind_to_itself(path))
        .and_then(|()| Root::open(path))
        .map_err(failed(format!("open the container's root {}", path.display())))
        .and_then(|root| {
            for wanted in spec.mounts().iter().flatten() {
                mounts::mount_in(&root, wanted, &mut ready)?;
            }
            if !has_devices {
                devices::make(&root, spec)?;
            }
            Ok(root)
        })
}

/// Makes `root` the root of this process's mount namespace, and everything outside of it unreachable.
///
/// # Errors
/// `Mount`.
pub fn enter(root: &Root, spec: &Spec) -> Result<(), Failure> {
    let failed = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Mount, stage, &errno);
    fchdir(&root.directory).map_err(failed("change into the container's root"))?;
    // The old root comes to lie on top of the new one, where it needs no directory and is taken off again.
    pivot_root(".", ".").map_err(failed("pivot to the container's root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("unmount the guest's root"))?;
    chdir("/").map_err(failed("change into the container's root"))?;
    if propagation(spec) == Some("unbindable") {
        remount("/", MsFlags::MS_UNBINDABLE).map_err(failed("set propagation of the root"))?;
    }
    Ok(())
}

/// What is left when everything has been written that goes into the root. `cover` is for the first directory to be
/// masked. Call it in the container.
///
/// # Errors
/// `Mount`.
pub fn seal(spec: &Spec, cover: Option<OwnedFd>) -> Result<(), Failure> {
    devices::seal(spec)?;
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        change(Path::new("/"), &Attributes::READ_ONLY)
            .map_err(|errno| Failure::os(FailureKind::Mount, "make the root read-only", &errno))?;
    }
    let linux = spec.linux().as_ref();
    let paths = |list: fn(&Linux) -> &Option<Vec<String>>| {
        linux.and_then(|linux| list(linux).as_deref()).unwrap_or_default()
    };
    hidden_paths::make_read_only(paths(Linux::readonly_paths))?;
    hidden_paths::mask(paths(Linux::masked_paths), cover)
}

fn set_propagation(kind: MsFlags) -> Result<(), Failure> {
    remount("/", MsFlags::MS_REC | kind)
        .map_err(|errno| Failure::os(FailureKind::Mount, "set propagation of mounts", &errno))
}

fn propagation(spec: &Spec) -> Option<&str> {
    spec.linux().as_ref()?.rootfs_propagation().as_deref()
}

fn bind_to_itself(path: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(path), path, None::<&str>, flags, None::<&str>)
}

fn remount(path: &str, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}
