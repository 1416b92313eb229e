//! One mount of a container, at a place looked up in its root.

use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::fstat;
use nix::unistd::fchdir;
use oci_spec::runtime::Mount;

use super::mount_options::MountOptions;
use super::ready_made::ReadyMade;
use super::root::Root;
use crate::failure::{Failure, OsError};
use crate::sys::mount::{attach, change_tree, clone_tree};

/// Mounts `wanted` in `root`: what is ready-made, if it is there. The working directory of this process is anywhere
/// afterwards.
///
/// # Errors
/// `Mount`, in runc's words.
pub fn mount_in(root: &Root, wanted: &Mount, ready: &mut ReadyMade) -> Result<(), Failure> {
    let source = source_of(wanted);
    let outcome = ready.take(wanted).and_then(|ready| match ready {
        Some(tree) => attach(&tree, &place_for(root, wanted)?),
        None => {
            let options = MountOptions::of(wanted);
            match options.bind {
                Some(recursive) => bind(root, source, wanted.destination(), &options, recursive),
                None => make(root, wanted, &options),
            }
        }
    });
    outcome.map_err(|errno| {
        let destination = wanted.destination();
        let reason = match (errno, wanted.typ().as_deref()) {
            (Errno::ELOOP | Errno::ENOTDIR, Some(kind)) if is_sensitive(kind) => {
                format!("filesystem {kind:?} must be mounted on ordinary directory")
            }
            _ => errno.words(),
        };
        let message = format!("error mounting {source:?} to rootfs at {destination:?}: {reason}");
        Failure::new(FailureKind::Mount, "mount", message).with_errno(errno as i32)
    })
}

/// File systems whose files programs trust by their names: an image must not lead them elsewhere by a link.
fn is_sensitive(kind: &str) -> bool {
    matches!(kind, "proc" | "sysfs")
}

/// Binds a copy of the tree at `source`, with its attributes set before anybody can see it.
fn bind(
    root: &Root,
    source: &Path,
    destination: &Path,
    options: &MountOptions,
    recursive: bool,
) -> nix::Result<()> {
    let tree = clone_tree(source, recursive)?;
    let target = if is_directory(&tree)? {
        root.directory(destination)?
    } else {
        root.file(destination)?
    };
    change(&tree, options)?;
    attach(&tree, &target)
}

/// Makes a file system.
fn make(root: &Root, wanted: &Mount, options: &MountOptions) -> nix::Result<()> {
    let destination = wanted.destination();
    let mut flags = options.flags;
    if destination == Path::new("/dev") {
        // Devices are yet to be made in it; see `devices::seal`.
        flags.remove(MsFlags::MS_RDONLY);
    }
    make_at(&place_for(root, wanted)?, wanted, flags, &options.data)?;
    if options.recursive.is_empty() && options.propagation.is_none() {
        return Ok(());
    }
    let rest = MountOptions {
        recursive: options.recursive,
        propagation: options.propagation,
        ..MountOptions::default()
    };
    change(&root.look_up(destination)?, &rest)
}

/// Makes the file system of `wanted` at `target`, wherever that is to end up.
///
/// # Errors
/// As `mount(2)`.
pub fn make_at(target: &OwnedFd, wanted: &Mount, flags: MsFlags, data: &str) -> nix::Result<()> {
    let kind = match wanted.typ().as_deref() {
        // The guest has cgroup v2 alone, and clients ask for what their own host has.
        Some("cgroup") => "cgroup2",
        Some(kind) => kind,
        None => return Err(Errno::ENODEV),
    };
    // By the place itself and not by its path, which might lead elsewhere by now.
    fchdir(target)?;
    mount(Some(source_of(wanted)), ".", Some(kind), flags, Some(data))
}

fn source_of(wanted: &Mount) -> &Path {
    wanted.source().as_deref().unwrap_or(Path::new("none"))
}

/// The directory that a file system is mounted on.
fn place_for(root: &Root, wanted: &Mount) -> nix::Result<OwnedFd> {
    if wanted.typ().as_deref().is_some_and(is_sensitive) {
        root.plain_directory(wanted.destination())
    } else {
        root.directory(wanted.destination())
    }
}

fn change(tree: &OwnedFd, options: &MountOptions) -> nix::Result<()> {
    for (attributes, recursive) in [
        (options.attributes(), false),
        (options.recursive_attributes(), true),
    ] {
        if !attributes.is_empty() {
            change_tree(tree, &attributes, recursive)?;
        }
    }
    Ok(())
}

fn is_directory(file: &OwnedFd) -> nix::Result<bool> {
    Ok(fstat(file)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}
