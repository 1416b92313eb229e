//! Which cgroup hierarchies this host has mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::CgroupError;

/// All of the host's.
#[derive(Debug, Clone)]
pub struct Hierarchies(Vec<Hierarchy>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// It is version 2's.
    pub unified: bool,
    /// Version 1: what is attached to it; a named hierarchy has no controller.
    controllers: Vec<String>,
}

/// Controllers whose limits we set, and so must be enabled in version 2 from the root down.
const NEEDED: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// What cgroups that we made carry; only root can set it.
const MARK: &str = "trusted.bulkhead";

impl Hierarchies {
    /// Reads the mount table.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn detect() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Table)?;
        Ok(Self::parse(&table))
    }

    /// Each hierarchy once, by its first mount point that shows its root.
    pub(super) fn parse(mountinfo: &str) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(parse_line) {
            let known = |other: &Hierarchy| {
                other.unified == hierarchy.unified && other.controllers == hierarchy.controllers
            };
            if !found.iter().any(known) {
                found.push(hierarchy);
            }
        }
        Self(found)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// Those that `wanted` takes.
    #[cfg(test)]
    pub(super) fn keep(self, wanted: impl FnMut(&Hierarchy) -> bool) -> Self {
        Self(self.0.into_iter().filter(wanted).collect())
    }

    /// Whether `path` is a directory below one of the mount points, or would be one.
    pub fn contain(&self, path: &Path) -> bool {
        self.0
            .iter()
            .any(|hierarchy| path != hierarchy.mount_point && path.starts_with(&hierarchy.mount_point))
    }

    /// Whether the host's controllers are version 2's. Decides which sort of metrics containerd expects.
    pub fn is_unified(&self) -> bool {
        self.0.iter().all(|hierarchy| hierarchy.unified)
    }
}

impl Hierarchy {
    /// Whether a controller's files can be here. Version 2 says so only once they are written.
    pub(super) fn has(&self, controller: &str) -> bool {
        if !self.unified {
            return self.controllers.iter().any(|name| name == controller);
        }
        let available = fs::read_to_string(self.mount_point.join("cgroup.controllers")).unwrap_or_default();
        available.split_ascii_whitespace().any(|name| name == controller)
    }

    /// Makes the directory `relative` and its parents, each fit for processes.
    pub(super) fn make(&self, relative: &Path, attempts: u32) -> io::Result<()> {
        let mut result = self.make_once(relative);
        for _ in 1..attempts {
            match &result {
                Err(error) if is_gone(error) => result = self.make_once(relative),
                _ => break,
            }
        }
        result
    }

    fn make_once(&self, relative: &Path) -> io::Result<()> {
        let mut directory = self.mount_point.clone();
        for part in relative {
            if self.unified {
                enable_controllers(&directory);
            }
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Ok(()) => mark(&directory),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            if !self.unified && self.has("cpuset") {
                inherit_cpuset(&parent, &directory)?;
            }
        }
        Ok(())
    }
}

/// Whether a parent has just been removed, or is being removed.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// Marks a cgroup as made by a sandbox, so that the last one in it may remove it.
fn mark(directory: &Path) {
    // Without the mark it is merely left behind, empty.
    rustix::fs::setxattr(directory, MARK, b"1", rustix::fs::XattrFlags::empty()).ok();
}

/// Whether a sandbox has made this cgroup.
pub(super) fn is_marked(directory: &Path) -> bool {
    rustix::fs::getxattr(directory, MARK, &mut [0; 1]).is_ok()
}

/// Lets the children of a cgroup have the controllers we need. Where one cannot be enabled, the limit that
/// needs it says so.
fn enable_controllers(directory: &Path) {
    for controller in NEEDED {
        fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}")).ok();
    }
}

/// A new cpuset of version 1 has no processor and no memory node, and so takes no process.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = fs::read_to_string(child.join(file))?;
        if own.trim().is_empty() {
            fs::write(child.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// A line of mountinfo: `id parent dev root mount-point options.. - fstype source super-options`.
fn parse_line(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut file_system = file_system.split(' ');
    let unified = match file_system.next()? {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    let mut mount = mount.split(' ').skip(3);
    // Another root than `/`: the view of some container, not the hierarchy.
    if mount.next()? != "/" {
        return None;
    }
    let mount_point = PathBuf::from(mount.next()?);
    let super_options = file_system.nth(1)?;
    let controllers = if unified {
        Vec::new()
    } else {
        super_options
            .split(',')
            .filter(|option| !matches!(*option, "rw" | "ro"))
            .map(str::to_owned)
            .collect()
    };
    Some(Hierarchy {
        mount_point,
        unified,
        controllers,
    })
}
