//! Paths of a container that are read-only or masked. Called in the container, where no path leads out.

use std::os::fd::OwnedFd;
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fstat, major, minor};

use crate::failure::Failure;
use crate::sys::mount::{Attributes, attach, change, clone_file};

/// Number of the null device.
const NULL: (u64, u64) = (1, 3);

/// Makes each of `paths` that exists read-only.
///
/// # Errors
/// `Mount`, naming the path.
pub fn make_read_only(paths: &[String]) -> Result<(), Failure> {
    for path in paths {
        let failed = |errno| Failure::os(FailureKind::Mount, format!("make {path} read-only"), &errno);
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        match mount(
            Some(path.as_str()),
            path.as_str(),
            None::<&str>,
            flags,
            None::<&str>,
        ) {
            Ok(()) => change(Path::new(path), &Attributes::READ_ONLY).map_err(failed)?,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(())
}

/// Makes an empty file system that nothing can be written to, on `target`.
///
/// # Errors
/// As `mount(2)`.
pub fn mount_cover(target: &Path) -> nix::Result<()> {
    mount(
        Some("tmpfs"),
        target,
        Some("tmpfs"),
        MsFlags::MS_RDONLY,
        None::<&str>,
    )
}

/// Covers each of `paths` that exists: files by the null device, directories by an empty read-only one: the
/// first of them by `cover`, if there is one.
///
/// # Errors
/// `Mount`, naming the path.
pub fn mask(paths: &[String], mut cover: Option<OwnedFd>) -> Result<(), Failure> {
    if paths.is_empty() {
        return Ok(());
    }
    let null = open_null().map_err(|errno| Failure::os(FailureKind::Mount, "open /dev/null", &errno))?;
    for path in paths {
        hide(Path::new(path), &null, &mut cover)
            .map_err(|errno| Failure::os(FailureKind::Mount, format!("mask {path}"), &errno))?;
    }
    Ok(())
}

fn hide(path: &Path, null: &OwnedFd, cover: &mut Option<OwnedFd>) -> nix::Result<()> {
    let target = match open(path, OFlag::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        outcome => outcome?,
    };
    if fstat(&target)?.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return match cover.take() {
            Some(cover) => attach(cover, target),
            None => mount_cover(path),
        };
    }
    attach(clone_file(null)?, target)
}

/// The container's null device, if it is one: an image may have put something else there (CVE-2025-31133).
fn open_null() -> nix::Result<OwnedFd> {
    let null = open(Path::new("/dev/null"), OFlag::O_NOFOLLOW)?;
    let status = fstat(&null)?;
    let is_device = status.st_mode & libc::S_IFMT == libc::S_IFCHR;
    if is_device && (major(status.st_rdev), minor(status.st_rdev)) == NULL {
        Ok(null)
    } else {
        Err(Errno::ENODEV)
    }
}

fn open(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC | flags, Mode::empty())
}
