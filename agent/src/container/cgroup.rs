//! One container's cgroup: made, limited, frozen, killed, removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_agent_protocol::message::FailureKind;
use bulkhead_device_filter::{Below, Instruction, attach, is_attached};
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::time::{Instant, timeout_at};

use super::resources::Setting;
use crate::failure::Failure;
use crate::sys;

/// How long freezing, and dying after a kill, may take. Both are immediate except for processes in an
/// uninterruptible wait; then the caller is told rather than kept.
const SETTLE: Duration = Duration::from_secs(5);

/// The cgroup above those of containers, as a path below the cgroup mount.
pub const CONTAINERS: &str = "/containers";

/// A cgroup below the agent's directory for containers, or that directory.
#[derive(Debug, Clone)]
pub struct Cgroup {
    directory: PathBuf,
    /// Path below the cgroup mount, as in /proc/PID/cgroup.
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup `path` (below the cgroup mount `root`).
    ///
    /// # Errors
    /// `Cgroup`, naming the directory.
    pub fn create(root: &Path, path: PathBuf) -> Result<Self, Failure> {
        let cgroup = Self::existing(root, path);
        let directory = &cgroup.directory;
        fs::create_dir(directory)
            .map_err(|error| failed(format!("make cgroup {}", directory.display()), &error))?;
        Ok(cgroup)
    }

    /// The cgroup `path`, which there is.
    pub fn existing(root: &Path, path: PathBuf) -> Self {
        let directory = root.join(path.strip_prefix("/").unwrap_or(&path));
        Self { directory, path }
    }

    /// Absolute path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The directory, to start init in.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn open(&self) -> Result<File, Failure> {
        let directory = &self.directory;
        File::open(directory).map_err(|error| failed(format!("open cgroup {}", directory.display()), &error))
    }

    /// The directory, to start a further process in. For a container that has made cgroups of its own and so
    /// may hold no processes itself, that of its init.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn open_for_process(&self, init: i32) -> Result<File, Failure> {
        let own = fs::read_to_string(self.file("cgroup.subtree_control")).unwrap_or_default();
        let mut directory = self.directory.clone();
        if !own.trim().is_empty() {
            let of_init = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap_or_default();
            let below = of_init
                .trim()
                .strip_prefix("0::")
                .map_or(self.path.as_path(), Path::new);
            if let Ok(below) = below.strip_prefix(&self.path) {
                directory.push(below);
            }
        }
        File::open(&directory).map_err(|error| failed(format!("open cgroup {}", directory.display()), &error))
    }

    /// Writes `settings` in order, stopping at the first that fails.
    ///
    /// # Errors
    /// `Cgroup`, naming file and value.
    pub fn apply(&self, settings: &[Setting]) -> Result<(), Failure> {
        for Setting { file, value } in settings {
            fs::write(self.file(file), value)
                .map_err(|error| failed(format!("set {file} to {value:?}"), &error))?;
        }
        Ok(())
    }

    /// Attaches the device filter.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn filter_devices(&self, program: &[Instruction]) -> Result<(), Failure> {
        self.attach(program, Below::Final)
    }

    /// Attaches the device filter of all cgroups below that have none of their own, if it is not there yet:
    /// a VM that has been restored brings it along.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn filter_devices_below(&self, program: &[Instruction]) -> Result<(), Failure> {
        let has_one = is_attached(self.open()?)
            .map_err(|error| Failure::os(FailureKind::Cgroup, "look for a device filter", &error))?;
        if has_one {
            Ok(())
        } else {
            self.attach(program, Below::Default)
        }
    }

    fn attach(&self, program: &[Instruction], below: Below) -> Result<(), Failure> {
        attach(self.open()?, program, below)
            .map_err(|error| Failure::os(FailureKind::Cgroup, "attach device filter", &error))
    }

    /// Freezes or thaws every process and waits until the kernel says that it is so.
    ///
    /// # Errors
    /// `Cgroup`; on a deadline the cgroup is thawed again.
    pub async fn freeze(&self, frozen: bool) -> Result<(), Failure> {
        self.set_frozen(frozen)?;
        let outcome = self.wait_for(&format!("frozen {}", u8::from(frozen))).await;
        if outcome.is_err() && frozen {
            self.set_frozen(false)?;
        }
        outcome
    }

    /// Tells the kernel to freeze or thaw every process, each before its next step outside the kernel.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn set_frozen(&self, frozen: bool) -> Result<(), Failure> {
        let value = if frozen { "1" } else { "0" };
        fs::write(self.file("cgroup.freeze"), value)
            .map_err(|error| failed(format!("set cgroup.freeze to {value}"), &error))
    }

    /// Sends SIGKILL to every process, frozen or not.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn kill(&self) -> Result<(), Failure> {
        match fs::write(self.file("cgroup.kill"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("kill cgroup", &error)),
            _ => Ok(()),
        }
    }

    /// Pids in the cgroup and below it, as the agent sees them.
    ///
    /// # Errors
    /// `Cgroup`.
    pub fn processes(&self) -> Result<Vec<i32>, Failure> {
        let mut pids = Vec::new();
        visit(&self.directory, &mut |directory| {
            let text = fs::read_to_string(directory.join("cgroup.procs"))?;
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
            Ok(())
        })
        .map_err(|error| failed("list the container's processes", &error))?;
        Ok(pids)
    }

    /// Kills what is left, waits for it to die and removes the cgroup with those below it.
    ///
    /// # Errors
    /// `Cgroup`; then it is still there.
    pub async fn remove(&self) -> Result<(), Failure> {
        self.kill()?;
        self.wait_for("populated 0").await?;
        visit(
            &self.directory,
            &mut |directory| match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                outcome => outcome,
            },
        )
        .map_err(|error| failed(format!("remove cgroup {}", self.directory.display()), &error))
    }

    /// Waits until `cgroup.events` has the line `line`, woken by the kernel at each change.
    async fn wait_for(&self, line: &str) -> Result<(), Failure> {
        let stage = || format!("wait for {line:?} in cgroup.events");
        let deadline = Instant::now() + SETTLE;
        let path = self.file("cgroup.events");
        let has_line = || fs::read_to_string(&path).map(|text| text.lines().any(|have| have == line));
        let reached = |outcome: io::Result<bool>| match outcome {
            // Removed in the meantime: nothing lives in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map_err(|error| failed(stage(), &error)),
        };
        if reached(has_line())? {
            return Ok(());
        }
        let file = File::open(&path).map_err(|error| failed(stage(), &error))?;
        let watched = sys::watch::watch(file, Interest::PRIORITY).map_err(|error| failed(stage(), &error))?;
        loop {
            // Reading is what arms the next wake-up, so the file that is polled is read too.
            let mut text = String::new();
            let mut reader = &watched.get_ref().0;
            let reread =
                io::Seek::rewind(&mut reader).and_then(|()| io::Read::read_to_string(&mut reader, &mut text));
            if reached(reread.map(|_| text.lines().any(|have| have == line)))? {
                return Ok(());
            }
            match timeout_at(deadline, watched.ready(Interest::PRIORITY)).await {
                Ok(Ok(mut guard)) => guard.clear_ready(),
                Ok(Err(error)) => return Err(failed(stage(), &error)),
                Err(_) => return Err(failed(stage(), &io::Error::from(Errno::ETIMEDOUT))),
            }
        }
    }
}

/// Calls `act` for every cgroup below `directory`, deepest first, and then for it.
fn visit(directory: &Path, act: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            visit(&entry.path(), act)?;
        }
    }
    act(directory)
}

fn failed(stage: impl Into<String>, error: &io::Error) -> Failure {
    Failure::os(FailureKind::Cgroup, stage, error)
}
