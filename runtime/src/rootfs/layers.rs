//! Mount orders that refer to each other, carried out on the host: what the guest cannot mount from disks, because
//! something in them is a directory of the host.
//!
//! The mounts that the last one refers to are made in a directory of the sandbox, and go with the container.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::order::Order;
use super::place::{Place, invalid};
use super::{RootfsError, RootfsMount, mount_all};
use crate::undo::Undo;

/// Nobody but root looks in.
const PRIVATE: u32 = 0o700;

/// Makes `mounts` at `root`; those that the last one refers to, below `scratch`. What was made is undone by
/// `undo`.
///
/// # Errors
/// Names the mount that failed; the earlier ones are left to `undo`.
pub fn mount_formatted(
    mounts: &[RootfsMount],
    root: &Path,
    scratch: &Path,
    undo: &mut Undo,
) -> Result<(), RootfsError> {
    let orders: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| Order::parse(mount, index))
        .collect::<Result<_, _>>()?;
    let refers = orders.last().is_some_and(|last| last.is_formatted);
    if !refers {
        // They make directories at most.
        for (index, order) in orders.iter().enumerate() {
            let plain = plain(order, &mounts[index], index, &[])?;
            mount_all(&[plain], root, undo)?;
        }
        return Ok(());
    }
    let mut points = Vec::new();
    make(scratch, undo)?;
    for (index, order) in orders.iter().enumerate() {
        let plain = plain(order, &mounts[index], index, &points)?;
        if index + 1 == orders.len() {
            mount_all(&[plain], root, undo)?;
        } else {
            let point = point(scratch, index);
            make(&point, undo)?;
            mount_all(&[plain], &point, undo)?;
            points.push(point);
        }
    }
    Ok(())
}

/// Where mount `index` of those below `scratch` is.
pub fn point(scratch: &Path, index: usize) -> PathBuf {
    scratch.join(index.to_string())
}

/// Whether `mounts` need [`mount_formatted`].
pub fn is_formatted(mounts: &[RootfsMount]) -> bool {
    mounts.iter().any(|mount| mount.fstype.contains('/'))
}

/// The order without its transformations, which are carried out here.
fn plain(
    order: &Order,
    mount: &RootfsMount,
    index: usize,
    points: &[PathBuf],
) -> Result<RootfsMount, RootfsError> {
    for (place, mode) in &order.directories {
        make_directory(place, *mode, index, points)?;
    }
    let mut options: Vec<String> = Vec::new();
    for option in &mount.options {
        match option.split_once('=') {
            Some((key @ "lowerdir", _)) => options.push(option_of(key, &order.lower, index, points)?),
            Some((key @ "upperdir", _)) => options.push(option_of(key, &order.upper, index, points)?),
            Some((key @ "workdir", _)) => options.push(option_of(key, &order.work, index, points)?),
            _ if option.starts_with(super::order::MKDIR) => {}
            _ if order.is_formatted && option.contains("{{") => {
                return Err(invalid(index, format!("template {option:?} is not known")));
            }
            _ => options.push(option.clone()),
        }
    }
    Ok(RootfsMount {
        fstype: order.fstype.clone(),
        source: path_of(&order.source, index, points)?,
        target: mount.target.clone(),
        options,
    })
}

/// An option of an overlay that names places.
fn option_of<'a>(
    key: &str,
    places: impl IntoIterator<Item = &'a Place>,
    index: usize,
    points: &[PathBuf],
) -> Result<String, RootfsError> {
    let paths: Result<Vec<_>, _> = places
        .into_iter()
        .map(|place| path_of(place, index, points))
        .collect();
    Ok(format!("{key}={}", paths?.join(":")))
}

/// The path of a place. What lies in an image may have been written by a guest: no link in there is followed.
fn path_of(place: &Place, index: usize, points: &[PathBuf]) -> Result<String, RootfsError> {
    let path = match place {
        Place::Host(path) => path.clone(),
        Place::Mount { index: of, path } => {
            let point = points
                .get(*of)
                .ok_or_else(|| invalid(index, format!("mount {of} does not come before it")))?;
            if !path.is_empty() {
                stays_inside(point, path).map_err(|error| invalid(index, format!("{path}: {error}")))?;
            }
            point.join(path)
        }
    };
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| invalid(index, format!("{} is not UTF-8", path.display())))
}

fn stays_inside(point: &Path, path: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, point, flags, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)?;
    Ok(())
}

fn make_directory(place: &Place, mode: u32, index: usize, points: &[PathBuf]) -> Result<(), RootfsError> {
    let failed = |path: &Path, error: io::Error| invalid(index, format!("make {}: {error}", path.display()));
    let (parent, name) = match place {
        Place::Host(path) => (path.parent(), path.file_name()),
        Place::Mount { path, .. } => (Path::new(path).parent(), Path::new(path).file_name()),
    };
    let (Some(parent), Some(name)) = (parent, name) else {
        return Err(invalid(index, "a directory without a name".to_owned()));
    };
    let parent = match place {
        Place::Host(_) => Place::Host(parent.to_owned()),
        Place::Mount { index, .. } => Place::Mount {
            index: *index,
            path: parent.to_string_lossy().into_owned(),
        },
    };
    let path = Path::new(&path_of(&parent, index, points)?).join(name);
    match DirBuilder::new().mode(mode).create(&path) {
        Ok(()) => {}
        // As its maker left it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(failed(&path, error)),
    }
    // The umask has cut it.
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&path, permissions).map_err(|error| failed(&path, error))
}

/// Makes a directory that goes again, if it is empty by then.
fn make(path: &Path, undo: &mut Undo) -> Result<(), RootfsError> {
    let gone = path.to_owned();
    undo.push(
        format!("remove {}", path.display()),
        move || match fs::remove_dir(&gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    );
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE)
        .create(path)
        .map_err(|source| RootfsError::Make {
            path: path.to_owned(),
            source,
        })
}
