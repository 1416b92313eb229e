//! Control groups of the host, of version 1 (one directory per hierarchy) and 2.
//!
//! The anchor of a container is in the container's `cgroupsPath`, with the container's limits, so that
//! whoever looks at the host's cgroup of the pid containerd was told finds them. The VM's processes are in a
//! cgroup beside it, and so below the pod's.

pub mod devices;
mod hierarchy;
mod limits;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use displaydoc::Display;
use oci_spec::runtime::{LinuxBlockIo, LinuxResources};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

pub use hierarchy::{Hierarchies, Hierarchy};
use limits::Setting;

/// The kernel needs a moment between a process's end and its cgroup being empty: the time it takes to give back a
/// guest's memory, more than a second on an emulated machine. What is left of `delete`'s 5 seconds is enough.
const REMOVE_DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks.
const REMOVE_PAUSE: Duration = Duration::from_millis(5);
/// Another sandbox may remove a parent between our making it and our using it.
const CREATE_ATTEMPTS: u32 = 8;

/// One cgroup, in every hierarchy.
#[derive(Debug, Clone)]
pub struct Cgroup {
    places: Vec<(Hierarchy, PathBuf)>,
}

/// Why something about a cgroup failed.
#[derive(Debug, Display, Error)]
pub enum CgroupError {
    /// cannot read the mount table: {0}
    Table(#[source] io::Error),
    /// cgroup path {0} is not a plain path
    Path(PathBuf),
    /// cannot create cgroup {path}: {source}
    Create {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot set {path} to {value}: {source}
    Set {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// block I/O cannot be limited: the sandbox has no cgroup that the host's io or blkio controller is enabled in
    NoBlockIo,
    /// devices cannot be limited: the sandbox has no cgroup that could
    NoDevices,
    /// cannot limit the devices of cgroup {path}: {source}
    Devices {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cannot remove cgroup {path}: {source}
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The cgroup of a sandbox's VM, given that of its first container; empty if that has none.
pub fn sandbox_path(container: &Path, sandbox: &str) -> PathBuf {
    container
        .parent()
        .map_or_else(PathBuf::new, |parent| parent.join(format!("bulkhead-{sandbox}")))
}

impl Hierarchies {
    /// The directories that [`Hierarchies::create`] would have to make, outermost first: what to record
    /// before calling it.
    ///
    /// # Errors
    /// `path` has components other than names.
    pub fn missing(&self, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        let relative = plain(path)?;
        let mut missing = Vec::new();
        for hierarchy in self.iter() {
            let directory = hierarchy.mount_point.join(relative);
            let mut chain: Vec<_> = directory
                .ancestors()
                .take_while(|dir| *dir != hierarchy.mount_point && !dir.exists())
                .map(Path::to_owned)
                .collect();
            chain.reverse();
            missing.append(&mut chain);
        }
        Ok(missing)
    }

    /// Makes the cgroup wherever it does not exist yet. An empty path is no cgroup at all.
    ///
    /// # Errors
    /// Names the directory.
    pub fn create(&self, path: &Path) -> Result<Cgroup, CgroupError> {
        let relative = plain(path)?;
        let mut places = Vec::new();
        if relative.as_os_str().is_empty() {
            return Ok(Cgroup { places });
        }
        for hierarchy in self.iter() {
            let directory = hierarchy.mount_point.join(relative);
            hierarchy
                .make(relative, CREATE_ATTEMPTS)
                .map_err(|source| CgroupError::Create {
                    path: directory.clone(),
                    source,
                })?;
            places.push((hierarchy.clone(), directory));
        }
        Ok(Cgroup { places })
    }
}

impl Cgroup {
    /// The files a process is moved into the cgroup by.
    pub fn procs(&self) -> Vec<PathBuf> {
        self.places
            .iter()
            .map(|(_, directory)| directory.join("cgroup.procs"))
            .collect()
    }

    /// Moves a process in. The first move in a while waits for the whole machine, some 15 ms.
    ///
    /// # Errors
    /// Names the file the kernel refused.
    pub fn enter(&self, pid: u32) -> Result<(), CgroupError> {
        for path in self.procs() {
            fs::write(&path, pid.to_string()).map_err(|source| CgroupError::Set {
                path,
                value: pid.to_string(),
                source,
            })?;
        }
        Ok(())
    }

    /// Sets the limits of memory, cpu and pids that `resources` names; the others stay.
    ///
    /// # Errors
    /// Names the file the kernel refused.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        self.set_limits(&limits::v1(resources), &limits::v2(resources))
            .map(drop)
    }

    /// Limits the block I/O of what is in the cgroup.
    ///
    /// # Errors
    /// The host has no controller for it, or names the file the kernel refused.
    pub fn limit_block_io(&self, io: &LinuxBlockIo) -> Result<(), CgroupError> {
        let v1 = limits::block_io_v1(io);
        if v1.is_empty() || self.set_limits(&v1, &limits::block_io_v2(io))? {
            return Ok(());
        }
        Err(CgroupError::NoBlockIo)
    }

    /// Sets in each hierarchy what it has the controllers for. Says whether there was any.
    fn set_limits(&self, v1: &[Setting], v2: &[Setting]) -> Result<bool, CgroupError> {
        let mut any = false;
        for (hierarchy, directory) in &self.places {
            let settings = if hierarchy.unified { v2 } else { v1 };
            let ours = settings
                .iter()
                .filter(|setting| hierarchy.has(setting.controller));
            let ours = ours.collect::<Vec<_>>();
            any |= !ours.is_empty();
            set_all(directory, &ours)?;
        }
        Ok(any)
    }
}

/// Writes settings; where the kernel wants another order, in that order: a limit and the one above it can
/// only be moved one after the other, and which goes first depends on where they were.
fn set_all(directory: &Path, settings: &[&Setting]) -> Result<(), CgroupError> {
    let mut postponed = Vec::new();
    for setting in settings {
        if set(directory, setting).is_err() {
            postponed.push(setting);
        }
    }
    for setting in postponed {
        match set(directory, setting) {
            // Swap accounting is a boot option of the host's kernel, and so is a disk's scheduler.
            Err(error) if setting.optional && error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!("the host's kernel has no {}", setting.file);
            }
            result => result.map_err(|source| CgroupError::Set {
                path: directory.join(setting.file),
                value: setting.value.clone(),
                source,
            })?,
        }
    }
    Ok(())
}

fn set(directory: &Path, setting: &Setting) -> io::Result<()> {
    // Never created: cgroup files exist or the kernel does not have them.
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(directory.join(setting.file))?;
    io::Write::write_all(&mut file, setting.value.as_bytes())
}

/// Kills whatever is in the cgroups `directories` and removes them, innermost last first. Directories that
/// are gone or in use by others are passed over, except for the processes in them.
///
/// # Errors
/// A directory without children cannot be removed.
pub fn remove(directories: &[PathBuf]) -> Result<(), CgroupError> {
    let deadline = Instant::now() + REMOVE_DEADLINE;
    for directory in directories.iter().rev() {
        while let Err(source) = fs::remove_dir(directory) {
            let gone = source.kind() == io::ErrorKind::NotFound;
            if gone || has_children(directory) {
                break;
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Remove {
                    path: directory.clone(),
                    source,
                });
            }
            kill_all(directory);
            std::thread::sleep(REMOVE_PAUSE);
        }
    }
    directories.iter().for_each(|directory| remove_parents(directory));
    Ok(())
}

/// Removes the parents that sandboxes have made, if this was the last cgroup in them.
fn remove_parents(directory: &Path) {
    let parents = directory.ancestors().skip(1);
    for parent in parents.take_while(|parent| hierarchy::is_marked(parent)) {
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
}

fn has_children(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .into_iter()
        .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Sends SIGKILL to every process in the cgroup. By pidfd, and only if the process is still in there once
/// the pidfd is open: until then its number might have become another's.
fn kill_all(directory: &Path) {
    for number in members(directory) {
        let Some(pid) = Pid::from_raw(number) else {
            continue;
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        if members(directory).contains(&number) {
            // It may be gone by now, which is what was wanted.
            pidfd_send_signal(pidfd, Signal::KILL).ok();
        }
    }
}

fn members(directory: &Path) -> Vec<i32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// The path below a mount point that `path` names.
fn plain(path: &Path) -> Result<&Path, CgroupError> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let is_plain = relative
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if is_plain {
        Ok(relative)
    } else {
        Err(CgroupError::Path(path.into()))
    }
}

#[cfg(test)]
mod tests;
