//! A running VM.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;

use super::{Disk, DiskAddress, VmmError};
use crate::console::Console;
use crate::process::{Exit, ExitWatch, ProcessHandle, ProcessIdentity};

/// Lines of the monitor's and the guest's output that an error quotes.
pub const QUOTED_LINES: usize = 20;

/// One running VM. Dropping it ends the VM.
pub struct VmInstance {
    pub(super) agent: Mutex<Option<UnixStream>>,
    pub(super) process: ProcessHandle,
    /// The monitor itself, where `process` is only its parent.
    pub(super) monitor: Option<ProcessIdentity>,
    pub(super) console: Console,
    pub(super) control: Arc<dyn Control>,
}

/// What a monitor can be told while it runs.
#[async_trait]
pub(super) trait Control: Send + Sync {
    /// Stops the virtual CPUs.
    async fn pause(&self) -> Result<(), VmmError>;
    /// Lets them go on.
    async fn resume(&self) -> Result<(), VmmError>;
    /// Asks the monitor to end, without asking the guest.
    async fn quit(&self) -> Result<(), VmmError>;
    /// Stops the virtual CPUs and writes the VM to the file it was started with.
    async fn save(&self, deadline: Duration) -> Result<(), VmmError>;
    /// Why the guest ended, as far as the monitor has said.
    async fn last_words(&self) -> Option<DeathReason>;
    /// What the virtual CPUs are at, in the monitor's words.
    async fn examine(&self) -> Result<String, VmmError> {
        Err(VmmError::Unsupported("tell what the virtual CPUs do"))
    }
    /// Plugs all of the disks in, or none.
    async fn plug(&self, _disks: Vec<Disk>) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("plug in disks"))
    }
    /// Takes disks out.
    async fn unplug(&self, _disks: &[DiskAddress]) -> Result<(), VmmError> {
        Err(VmmError::Unsupported("plug in disks"))
    }
}

/// How and why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmDeath {
    /// How the monitor's process ended.
    pub exit: Exit,
    /// Why.
    pub reason: DeathReason,
    /// The last lines of the monitor's stderr and the guest's console.
    pub log: Vec<String>,
}

/// Why a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeathReason {
    /// The guest powered off or rebooted: the agent's orderly end, or a workload's `reboot`.
    GuestShutdown,
    /// The guest's kernel panicked.
    GuestPanic,
    /// The host asked for it.
    Requested,
    /// The monitor failed or was killed.
    VmmCrash,
}

impl std::fmt::Display for DeathReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GuestShutdown => "guest_shutdown",
            Self::GuestPanic => "guest_panic",
            Self::Requested => "requested",
            Self::VmmCrash => "vmm_crash",
        })
    }
}

impl std::fmt::Display for VmDeath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.reason, self.exit)?;
        if !self.log.is_empty() {
            write!(f, "; last output: {}", self.log.join(" | "))?;
        }
        Ok(())
    }
}

impl VmInstance {
    /// The stream to the agent. Once.
    pub fn take_agent(&self) -> Option<UnixStream> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The process that stands for the VM. Killing it kills every process of the VM; when it has ended, so
    /// have they.
    pub fn process(&self) -> &ProcessHandle {
        &self.process
    }

    /// All processes of the VM, for the state file.
    pub fn processes(&self) -> Vec<ProcessIdentity> {
        std::iter::once(self.process.identity())
            .chain(self.monitor)
            .collect()
    }

    /// Sees the end without owning the VM.
    pub fn watch(&self) -> ExitWatch {
        self.process.watch()
    }

    /// The guest's console and the monitor's stderr.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Stops the virtual CPUs.
    pub async fn pause(&self) -> Result<(), VmmError> {
        self.control.pause().await
    }

    /// Lets them go on.
    pub async fn resume(&self) -> Result<(), VmmError> {
        self.control.resume().await
    }

    /// Asks the monitor to end, without asking the guest.
    pub async fn quit(&self) -> Result<(), VmmError> {
        self.control.quit().await
    }

    /// Stops a VM that was started by [`Start::BootToSave`](super::Start) and writes it to its file, from
    /// [`SAVED_OFFSET`](super::SAVED_OFFSET) on. It is of no use afterwards but to be ended.
    pub async fn save(&self, deadline: Duration) -> Result<(), VmmError> {
        self.control.save(deadline).await
    }

    /// What the virtual CPUs are at, for the log: whether they run or idle, and where.
    pub async fn examine(&self) -> Result<String, VmmError> {
        self.control.examine().await
    }

    /// Plugs disks in: all of them, or none. The guest is not told, and looks for them when its agent is.
    ///
    /// # Errors
    /// The monitor cannot, or the image is in use: it is locked while it is plugged in.
    pub async fn plug(&self, disks: Vec<Disk>) -> Result<(), VmmError> {
        self.control.plug(disks).await
    }

    /// Takes disks out, and returns when their files are closed. The guest should have stopped using them: what
    /// it does afterwards fails. Those that are not there are no error.
    ///
    /// # Errors
    /// The monitor still has some of them.
    pub async fn unplug(&self, disks: &[DiskAddress]) -> Result<(), VmmError> {
        self.control.unplug(disks).await
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<(), VmmError> {
        Ok(self.process.kill()?)
    }

    /// Waits for the VM's end and says why it came.
    pub async fn died(&self) -> VmDeath {
        let exit = self.process.wait().await;
        self.console.settled().await;
        let log = self.console.last_lines(QUOTED_LINES);
        let reason = self.control.last_words().await.unwrap_or(DeathReason::VmmCrash);
        let panicked = log.iter().any(|line| line.contains("Kernel panic - not syncing"));
        let reason = if reason == DeathReason::GuestShutdown && panicked {
            DeathReason::GuestPanic
        } else {
            reason
        };
        VmDeath { exit, reason, log }
    }
}
