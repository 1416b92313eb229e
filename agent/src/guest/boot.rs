//! From the kernel's hand-over to a guest that can talk to its host. Every step is on the path of every
//! container start, so there are only those that must be, and none waits that need not.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use displaydoc::Display;
use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use thiserror::Error;

use super::{mounts, port};
use crate::sys;
use crate::zygote::Zygote;

/// How often the kernel brings its counters of memory up to date, without being asked.
const SECONDS_BETWEEN_STATISTICS: &str = "10";

/// How long the driver may take to announce the port. It is there before PID 1 as a rule.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked for until then.
const PORT_LOOK: Duration = Duration::from_millis(1);

/// Open files of a container that does not say: what containerd's unit gives its containers.
const OPEN_FILES: u64 = 1 << 20;

/// Most open files a container may ask for: hosts that know no limit pass this one on.
const MOST_OPEN_FILES: &str = "1073741816";

/// Why the guest does not come up. It is printed to the console, and the VM ends.
#[derive(Debug, Display, Error)]
pub enum BootError {
    /// mount {target}: {source}
    Mount {
        /// Where.
        target: String,
        /// Why not.
        source: Errno,
    },
    /// {path}: {source}
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// {what}: {source}
    System {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: Errno,
    },
    /// the VM has no port org.bulkhead.agent
    NoPort,
}

/// What booting made.
pub struct Booted {
    /// Made while this process was alone.
    pub zygote: Zygote,
    /// The way to the host.
    pub port: OwnedFd,
}

/// Brings the guest up.
///
/// # Errors
/// The first step that failed.
pub fn boot() -> Result<Booted, BootError> {
    let system = |what| move |source| BootError::System { what, source };
    mounts::mount_all()?;
    mounts::ensure_standard_streams().map_err(|source| BootError::File {
        path: "/dev/null".into(),
        source,
    })?;
    set_limits().map_err(system("set resource limits"))?;
    write("/proc/self/oom_score_adj", "-1000")?;
    write("/proc/sys/kernel/panic", "-1")?;
    write("/proc/sys/fs/nr_open", MOST_OPEN_FILES)?;
    find_new_disks()?;
    keep_still()?;
    sys::ioctl::bring_up("lo").map_err(system("bring up loopback"))?;
    prepare_cgroups()?;
    make_directory("/run/bulkhead")?;
    let zygote = Zygote::start().map_err(system("start the zygote"))?;
    mounts::mount_share()?;
    let port = open_port()?;
    Ok(Booted { zygote, port })
}

fn set_limits() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES)?;
    setrlimit(Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY)?;
    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)
}

/// Has the kernel look for disks from now on. It is started with `scsi_mod.scan=manual`, because looking at
/// 256 empty places takes it 60 ms; a disk that is plugged in later must be found.
fn find_new_disks() -> Result<(), BootError> {
    write_if_there("/sys/module/scsi_mod/parameters/scan", "sync")
}

/// Leaves out what the kernel does for its own sake, twice a second and once a second: a restored VM has to translate it
/// first, and an idle one would wake for it. Memory is still compacted when it is needed.
fn keep_still() -> Result<(), BootError> {
    write_if_there("/proc/sys/vm/compaction_proactiveness", "0")?;
    write_if_there("/proc/sys/vm/stat_interval", SECONDS_BETWEEN_STATISTICS)
}

/// A kernel may be built without it.
fn write_if_there(path: &str, value: &str) -> Result<(), BootError> {
    match write(path, value) {
        Err(BootError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Every controller for everything below the root; the agent and its helpers in a cgroup of their own.
fn prepare_cgroups() -> Result<(), BootError> {
    let root = mounts::CGROUPS;
    let controllers =
        fs::read_to_string(format!("{root}/cgroup.controllers")).map_err(|source| BootError::File {
            path: format!("{root}/cgroup.controllers").into(),
            source,
        })?;
    let enabled: Vec<String> = controllers
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    let enabled = enabled.join(" ");
    write(&format!("{root}/cgroup.subtree_control"), &enabled)?;
    make_directory(&format!("{root}/containers"))?;
    write(&format!("{root}/containers/cgroup.subtree_control"), &enabled)?;
    make_directory(&format!("{root}/agent"))?;
    write(&format!("{root}/agent/cgroup.procs"), "0")
}

fn open_port() -> Result<OwnedFd, BootError> {
    let mut waited = Duration::ZERO;
    let path = loop {
        match port::find() {
            Some(path) => break path,
            None if waited >= PORT_PATIENCE => return Err(BootError::NoPort),
            None => {
                std::thread::sleep(PORT_LOOK);
                waited += PORT_LOOK;
            }
        }
    };
    let file = OpenOptions::new().read(true).write(true).open(&path);
    file.map(OwnedFd::from)
        .map_err(|source| BootError::File { path, source })
}

fn write(path: &str, value: &str) -> Result<(), BootError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| BootError::File {
            path: path.into(),
            source,
        })
}

fn make_directory(path: &str) -> Result<(), BootError> {
    fs::create_dir(path).map_err(|source| BootError::File {
        path: path.into(),
        source,
    })
}
