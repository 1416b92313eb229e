//! What a container's spec asks for, split into what the host does and what the guest does.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Linux, LinuxResources, Root, Spec};

use crate::devices::BlockDevice;
use crate::error::{PlanError, invalid};
use crate::process::{ProcessPlan, plan_process};
use crate::resources::{check_block_io, plan_resources};
use crate::{annotations, cgroups_path, devices, group, hooks, linux, mounts, namespaces, root};

/// A container, planned.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerPlan {
    /// What the host does.
    pub host: HostPlan,
    /// The spec that the agent is given: root and bind sources are paths of the guest, hooks of the host are gone,
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
    /// Block devices of the host that the container sees, in the spec's order.
    pub devices: Vec<BlockDevice>,
    /// Network namespace.
    pub network: NetworkNamespace,
    /// PID namespace.
    pub pid: PidNamespace,
    /// `linux.cgroupsPath` as a relative path below the cgroup mount (systemd's `slice:prefix:name` is
    /// expanded). Empty if the spec has none.
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
    /// `slave` or `rslave`: what the host mounts and unmounts below the source later is followed.
    pub follows_host: bool,
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
    /// That of the container whose pid was reported as this one (`/proc/<pid>/ns/pid`). The guest spec lists
    /// none; whoever knows the pids tells the agent which container is meant.
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
    let annotations = spec.annotations().as_ref();
    let group =
        group::group(annotations, container_id).map_err(|error| invalid("annotations", error.to_string()))?;
    annotations::check(spec.annotations().as_ref())?;
    let no_linux = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&no_linux);
    linux::check(spec, linux)?;
    let (rootfs, rootfs_read_only) = root::translate(spec, bundle)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| invalid("process", "is missing"))?;
    let ProcessPlan {
        process,
        mut warnings,
    } = plan_process(process)?;
    let namespaces = namespaces::translate(spec, linux, group.role, &mut warnings)?;
    let hooks = hooks::translate(spec)?;
    let mounts = mounts::translate(spec, guest, &mut warnings)?;
    let devices = devices::translate(linux, &mut warnings)?;
    let resources = linux.resources().as_ref().map(plan_resources).transpose()?;
    warnings.extend(resources.iter().flat_map(|r| r.warnings.clone()));
    let (mut host_resources, guest_resources) = resources.map(|r| (r.host, r.guest)).unzip();
    if let Some(host) = &mut host_resources {
        check_block_io(host, group.role, &mut warnings)?;
    }

    let mut guest_linux = linux.clone();
    if linux
        .mount_label()
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        warnings.push("linux.mountLabel is ignored: it means nothing in the guest".into());
    }
    guest_linux
        .set_mount_label(None)
        .set_rootfs_propagation(linux::propagation(linux)?)
        .set_namespaces(Some(namespaces.guest))
        .set_devices(linux.devices().as_ref().map(|_| devices.guest))
        .set_resources(guest_resources)
        .set_cgroups_path(Some(Path::new("/").join(container_id)));
    let mut guest_root = Root::default();
    guest_root.set_path(guest.container.join("rootfs"));
    guest_root.set_readonly(Some(rootfs_read_only));
    let mut guest_spec = spec.clone();
    guest_spec
        .set_root(Some(guest_root))
        .set_process(Some(process))
        .set_mounts(Some(mounts.guest))
        .set_hostname(namespaces.hostname)
        .set_domainname(namespaces.domainname)
        .set_hooks(hooks.guest)
        .set_linux(Some(guest_linux));
    Ok(ContainerPlan {
        host: HostPlan {
            rootfs,
            rootfs_read_only,
            binds: mounts.binds,
            devices: devices.disks,
            network: namespaces.network,
            pid: namespaces.pid,
            cgroups_path: cgroups_path::translate(linux.cgroups_path().as_ref())?,
            resources: host_resources,
            hooks: hooks.host,
        },
        guest: guest_spec,
        warnings,
    })
}
