//! Mounts by descriptor: a tree is made or cloned out of sight, given its attributes, and then attached to a
//! place that was looked up once. No path is followed twice.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// `OPEN_TREE_CLONE`, `AT_RECURSIVE` and `MOVE_MOUNT_*_EMPTY_PATH`, as system calls want them.
const CLONE: libc::c_uint = 1;
const RECURSIVE: libc::c_uint = 0x8000;
const FROM_DESCRIPTOR: libc::c_uint = 0x4;
const TO_DESCRIPTOR: libc::c_uint = 0x40;

/// What `mount_setattr(2)` changes: `struct mount_attr`. Bits are `MOUNT_ATTR_*`, the propagation is one of
/// `MS_SLAVE`, `MS_PRIVATE` and their kind.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear, before others are set.
    pub clear: u64,
    /// How mounts below it are shared with its copies; 0 leaves that as it is.
    pub propagation: u64,
    user_namespace: u64,
}

impl Attributes {
    /// Nothing may be written.
    pub const READ_ONLY: Self = Self::setting(1);

    /// Sets `bits`.
    pub const fn setting(bits: u64) -> Self {
        Self {
            set: bits,
            clear: 0,
            propagation: 0,
            user_namespace: 0,
        }
    }

    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A detached copy of the mount at `path`, and of those below it if `recursive`.
///
/// # Errors
/// As `open_tree(2)`.
pub fn clone_tree(path: &Path, recursive: bool) -> nix::Result<OwnedFd> {
    let flags = if recursive { CLONE | RECURSIVE } else { CLONE };
    open_tree(libc::AT_FDCWD, path, flags)
}

/// A detached mount of the one file or directory that `fd` names.
///
/// # Errors
/// As `open_tree(2)`.
pub fn clone_file(fd: impl AsFd) -> nix::Result<OwnedFd> {
    let flags = CLONE | libc::AT_EMPTY_PATH as libc::c_uint;
    open_tree(fd.as_fd().as_raw_fd(), Path::new(""), flags)
}

fn open_tree(directory: RawFd, path: &Path, flags: libc::c_uint) -> nix::Result<OwnedFd> {
    let path = text(path)?;
    let flags = flags | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: `path` ends with a NUL and outlives the call, which only reads it.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })?;
    // SAFETY: the kernel has just made it for us; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Changes the mount that `tree` names, and those below it if `recursive`.
///
/// # Errors
/// As `mount_setattr(2)`.
pub fn change_tree(tree: impl AsFd, attributes: &Attributes, recursive: bool) -> nix::Result<()> {
    set_attributes(tree.as_fd().as_raw_fd(), Path::new(""), attributes, recursive)
}

/// Changes the mount at `path`.
///
/// # Errors
/// As `mount_setattr(2)`.
pub fn change(path: &Path, attributes: &Attributes) -> nix::Result<()> {
    set_attributes(libc::AT_FDCWD, path, attributes, false)
}

fn set_attributes(
    directory: RawFd,
    path: &Path,
    attributes: &Attributes,
    recursive: bool,
) -> nix::Result<()> {
    let path = text(path)?;
    let empty = libc::AT_EMPTY_PATH as libc::c_uint;
    let flags = if recursive { empty | RECURSIVE } else { empty };
    // SAFETY: `path` and `attributes` outlive the call, which only reads them, and the size is theirs.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<Attributes>(),
        )
    })
    .map(drop)
}

/// Attaches the detached `tree` on top of what `target` names.
///
/// # Errors
/// As `move_mount(2)`; `EINVAL` if one is a directory and the other is not.
pub fn attach(tree: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    let nothing = c"";
    // SAFETY: the two strings are static; descriptors and flags are integers.
    Errno::result(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_fd().as_raw_fd(),
            nothing.as_ptr(),
            target.as_fd().as_raw_fd(),
            nothing.as_ptr(),
            FROM_DESCRIPTOR | TO_DESCRIPTOR,
        )
    })
    .map(drop)
}

fn text(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}
