//! Mount points of a read-only root file system, made while it is still writable.
//!
//! A container's mounts are made in the guest, and where an image lacks a mount point it is made there too.
//! A read-only root file system is read-only on the host already, so the host makes them before it shares it,
//! as runc does before it turns the root read-only.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bulkhead_oci::ContainerPlan;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

const DIRECTORY_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// Where something will be mounted.
#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    /// Absolute, in the container.
    path: PathBuf,
    /// A file otherwise.
    is_directory: bool,
}

/// Makes what is missing, below `plan.host.rootfs`. What cannot be made is left to the guest, which says so
/// when it mounts there.
pub fn make(plan: &ContainerPlan) {
    let root = &plan.host.rootfs;
    for point in mount_points(plan) {
        if let Err(error) = make_one(root, &point) {
            tracing::debug!(root = %root.display(), path = %point.path.display(), %error, "no mount point made");
        }
    }
}

/// Those that lie on the root file system itself, and not on an earlier mount.
fn mount_points(plan: &ContainerPlan) -> Vec<MountPoint> {
    let mut points: Vec<MountPoint> = Vec::new();
    for mount in plan.guest.mounts().iter().flatten() {
        let path = mount.destination();
        if points.iter().any(|earlier| path.starts_with(&earlier.path)) {
            continue;
        }
        let mut binds = plan.host.binds.iter();
        let bind = binds.find(|bind| bind.destination == *path);
        points.push(MountPoint {
            path: path.clone(),
            is_directory: bind.is_none_or(|bind| bind.source.is_dir()),
        });
    }
    points
}

/// Links on the way are the image's, and are resolved as the container will see them.
fn make_one(root: &Path, point: &MountPoint) -> io::Result<()> {
    let root = open(rustix::fs::CWD, root, ResolveFlags::NO_MAGICLINKS)?;
    let relative = point.path.strip_prefix("/").unwrap_or(&point.path);
    let Some(name) = relative.file_name() else {
        return Ok(());
    };
    let mut parent = PathBuf::new();
    for part in relative.parent().into_iter().flatten() {
        make_entry(&root, &parent, part, true)?;
        parent.push(part);
    }
    make_entry(&root, &parent, name, point.is_directory)
}

fn make_entry(root: &OwnedFd, parent: &Path, name: &OsStr, is_directory: bool) -> io::Result<()> {
    let in_root = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match open(root.as_fd(), &parent.join(name), in_root) {
        Err(Errno::NOENT) => {}
        result => return Ok(result.map(drop)?),
    }
    let here = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let directory = open(root.as_fd(), here, in_root)?;
    if is_directory {
        return Ok(mkdirat(&directory, name, Mode::from_raw_mode(DIRECTORY_MODE))?);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    Ok(openat(&directory, name, flags, Mode::from_raw_mode(FILE_MODE)).map(drop)?)
}

fn open(at: impl AsFd, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    openat2(at, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use bulkhead_oci::{GuestPaths, plan};

    use super::*;

    /// A read-only rootfs and the plan of a container with these mounts, `(type, source, destination)`.
    fn planned(root: &Path, mounts: &[(&str, &Path, &str)]) -> ContainerPlan {
        let mounts: Vec<_> = mounts
            .iter()
            .map(|(typ, source, destination)| {
                serde_json::json!({"type": typ, "source": source, "destination": destination})
            })
            .collect();
        let spec = serde_json::json!({
            "ociVersion": "1.2.0", "root": {"path": root, "readonly": true}, "mounts": mounts,
            "process": {"user": {}, "cwd": "/", "args": ["true"]},
            "linux": {"namespaces": [{"type": "mount"}]}
        });
        let guest = GuestPaths {
            container: "/run/share/c".into(),
        };
        plan(
            &serde_json::from_value(spec).unwrap(),
            Path::new("/bundle"),
            "c",
            &guest,
        )
        .unwrap()
    }

    #[test]
    fn directories_and_files_are_made_where_they_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        let file = directory.path().join("file");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(&file, "").unwrap();
        let proc = ("proc", Path::new("proc"), "/proc");
        make(&planned(
            &root,
            &[
                proc,
                ("bind", &file, "/etc/resolv.conf"),
                ("bind", &root, "/a/b/c"),
            ],
        ));
        assert!(root.join("proc").is_dir());
        assert!(root.join("etc/resolv.conf").is_file());
        assert!(root.join("a/b/c").is_dir());
    }

    #[test]
    fn what_lies_on_another_mount_is_the_guests() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let tmpfs = Path::new("tmpfs");
        make(&planned(
            root,
            &[("tmpfs", tmpfs, "/dev"), ("tmpfs", tmpfs, "/dev/shm")],
        ));
        assert!(root.join("dev").is_dir());
        assert!(!root.join("dev/shm").exists());
    }

    #[test]
    fn links_of_the_image_stay_inside_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        let outside = directory.path().join("outside");
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink("/run", root.join("var")).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../outside", root.join("relative")).unwrap();
        let tmpfs = Path::new("tmpfs");
        let mounts = ["/var/a", "/absolute/a", "/relative/a"].map(|path| ("tmpfs", tmpfs, path));
        make(&planned(&root, &mounts));
        assert!(root.join("run/a").is_dir());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn what_is_there_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("data"), "kept").unwrap();
        make(&planned(root, &[("tmpfs", Path::new("tmpfs"), "/data")]));
        assert_eq!(fs::read_to_string(root.join("data")).unwrap(), "kept");
    }
}
