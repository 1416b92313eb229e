//! What a container's spec asks for, split into what the host does and what the guest does.

use std::path::{Path, PathBuf};

use displaydoc::Display;
use oci_spec::runtime::{Hook, LinuxResources, Spec};
use thiserror::Error;

/// A container, planned.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// What the host does.
    pub host: HostPlan,
    /// The spec that the agent is given: root and bind sources are paths of the guest, hooks are gone,
    /// namespace paths of the host are gone, `cgroupsPath` is the guest's.
    pub guest: Spec,
    /// What the spec asks for and a VM gives differently or not at all, one sentence each, for the log.
    pub warnings: Vec<String>,
}

/// The host's part.
#[derive(Debug, Clone, PartialEq)]
pub struct HostPlan {
    /// `root.path`, made absolute against the bundle.
    pub rootfs: PathBuf,
    /// `root.readonly`: the rootfs is shared read-only.
    pub rootfs_read_only: bool,
    /// Directories, files and special files of the host that the container sees, in the spec's order.
    pub binds: Vec<BindMount>,
    /// Network namespace.
    pub network: NetworkNamespace,
    /// PID namespace.
    pub pid: PidNamespace,
    /// `linux.cgroupsPath`, already turned into a path below the cgroup mount (systemd's
    /// `slice:prefix:name` is expanded). Empty if the spec has none.
    pub cgroups_path: PathBuf,
    /// Limits that are also set on the host's cgroup of the anchor, so that host tools see them.
    pub resources: Option<LinuxResources>,
    /// Hooks that run on the host.
    pub hooks: HostHooks,
}

/// One bind mount of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Index among the container's binds; names the mount below the container's share.
    pub index: usize,
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Enforced on the host.
    pub read_only: bool,
    /// `rbind`: submounts of the source come too.
    pub recursive: bool,
    /// `rro`: submounts are read-only too.
    pub recursive_read_only: bool,
    /// Where the container sees it; for error messages.
    pub destination: PathBuf,
}

/// The network namespace a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// A new one, with loopback alone.
    New,
    /// An existing one.
    Path(PathBuf),
    /// The host's. A VM cannot join it: the guest gets loopback alone, and a warning is logged.
    Host,
}

/// The PID namespace a container asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PidNamespace {
    /// A new one.
    New,
    /// That of the container whose pid was reported as this one (`/proc/<pid>/ns/pid`). The guest spec
    /// asks for a new one; whoever knows the pids tells the agent which container is meant.
    OfProcess(u32),
    /// The host's. A VM cannot join it: the container sees every process of its own VM.
    Host,
}

/// Hooks that run on the host, by the shim.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostHooks {
    /// `prestart` (deprecated) and then `createRuntime`.
    pub create_runtime: Vec<Hook>,
    /// After Start.
    pub poststart: Vec<Hook>,
    /// After the container is gone.
    pub poststop: Vec<Hook>,
}

/// Where things are in the guest; what the pure translation cannot know by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPaths {
    /// Where the agent sees this container's part of the share, for example `/run/share/<id>`.
    /// The rootfs is `<container>/rootfs`, bind N is `<container>/mounts/N`.
    pub container: PathBuf,
}

/// Why a spec has no plan. `field` is the JSON path of the offending field.
#[derive(Debug, Display, Error, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// config.json: {field}: {reason}
    Invalid {
        /// For example `process.env[3]`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// config.json: {field} is not supported: {reason}
    Unsupported {
        /// For example `hooks.startContainer`.
        field: String,
        /// Why not, and what to do instead where there is something.
        reason: String,
    },
}

/// Splits `spec` into what the host does and what the guest does.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn plan(
    spec: &Spec,
    bundle: &Path,
    container_id: &str,
    guest: &GuestPaths,
) -> Result<ContainerPlan, PlanError> {
    let _unused = (spec, bundle, container_id, guest);
    Err(PlanError::Unsupported {
        field: "root".into(),
        reason: "translation is being written".into(),
    })
}
