//! Virtual machine monitors.
//!
//! A [`Vmm`] turns a [`VmSpec`] into a running [`VmInstance`] and knows nothing of pods: identity, network,
//! mounts and time reach the guest later, as messages of the agent, over the one byte stream that every VMM
//! offers. Every VM has the same devices, used or not, so that a saved VM can take a booted one's place.
//! The contract, and how to add a VMM, is in `docs/vmm.md`.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::process::{Placement, ProcessError};

mod disk;
pub mod fake;
mod instance;
pub mod qemu;

pub use disk::{Disk, DiskAddress, FIRST_IMAGE, Image, MAX_IMAGES, MAX_LUN, SECTOR, ranges};
pub use instance::{DeathReason, VmDeath, VmInstance};

/// Tag of the shared directory, which the agent mounts before anything else.
pub const SHARE_TAG: &str = "share";
/// Name of the agent's virtio-serial port.
pub const AGENT_PORT: &str = "org.bulkhead.agent";

/// Starts virtual machines.
#[async_trait]
pub trait Vmm: Send + Sync {
    /// Starts one VM and returns as soon as the monitor runs; the guest may still be booting. The agent's
    /// HELLO is what says that it has booted.
    ///
    /// Dropping the future leaves nothing behind.
    async fn launch(&self, spec: VmSpec) -> Result<VmInstance, VmmError>;

    /// Names everything of the monitor that a saved VM of `shape` depends on: program and version, devices,
    /// processor. A VM saved under one name can be restored under the same name, and no other. `None`: this
    /// monitor cannot save.
    ///
    /// # Errors
    /// The monitor is not there.
    async fn saved_identity(&self, _shape: &VmShape) -> Result<Option<String>, VmmError> {
        Ok(None)
    }
}

/// One VM to start. All descriptors are consumed.
#[derive(Debug)]
pub struct VmSpec {
    /// What all VMs of its class have in common.
    pub shape: VmShape,
    /// How it begins.
    pub start: Start,
    /// The network device, or `None` for one that is connected to nothing.
    pub tap: Option<OwnedFd>,
    /// Connected vhost-user socket of the file-sharing server, or `None` for a VM without a share.
    pub share: Option<OwnedFd>,
    /// Where the monitor belongs: the cgroups it enters before it starts, and an `oom_score_adj` above the
    /// shim's, so that the shim survives to report.
    pub placement: Placement,
    /// Where the guest's console is logged, see [`crate::console`].
    pub console_log: PathBuf,
    /// The lifecycle lock: an flock'ed file that every process of the VM inherits, so that the lock is free
    /// exactly when all of them are gone.
    pub lock: OwnedFd,
}

/// What all VMs that can be restored from one saved VM have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmShape {
    /// Virtual CPUs, at least 1.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// What executes the guest's instructions; the verdict of [`crate::kvm`].
    pub accelerator: Accelerator,
    /// Guest kernel: an ELF vmlinux.
    pub kernel: PathBuf,
    /// Guest initramfs, holding the agent as `/init`.
    pub initramfs: PathBuf,
}

/// How a VM begins.
#[derive(Debug)]
pub enum Start {
    /// Its kernel boots.
    Boot,
    /// The same, and it can be saved later, by [`VmInstance::save`], into this file, which is open for writing.
    BootToSave(OwnedFd),
    /// It goes on where a VM of the same shape and [identity](Vmm::saved_identity) was saved, into this file,
    /// which is open for reading: on failure `launch` says so, and on success the guest runs.
    Restore(OwnedFd),
}

/// Where a saved VM begins in its file. What is before belongs to the caller.
pub const SAVED_OFFSET: u64 = 4096;

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Why a VM could not be started or told something.
#[derive(Debug, thiserror::Error, displaydoc::Display)]
pub enum VmmError {
    /// virtual machine monitor: {0}
    Process(#[from] ProcessError),
    /// cannot prepare the virtual machine: {action}: {source}
    Prepare {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// {program} not found in PATH
    NotFound {
        /// The monitor's program.
        program: PathBuf,
    },
    /// the virtual machine did not come up: {0}
    Died(VmDeath),
    /// the virtual machine did not answer {command} within {after:?}
    Slow {
        /// What it was told.
        command: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// the virtual machine refused {command}: {message}
    Refused {
        /// What it was told.
        command: &'static str,
        /// Its words.
        message: String,
    },
    /// disk {name}: {message}
    Disk {
        /// What the caller calls it.
        name: String,
        /// The monitor's words.
        message: String,
    },
    /// the control channel of the virtual machine is broken: {0}
    Broken(String),
    /// the virtual machine cannot be {action}: {message}
    Migration {
        /// Saved or restored.
        action: &'static str,
        /// The monitor's words.
        message: String,
    },
    /// this virtual machine monitor cannot {0}
    Unsupported(&'static str),
}
