//! What the shim asks of a sandbox.

use std::collections::HashMap;
use std::path::PathBuf;

use bulkhead_oci::sizing::Size;
use bulkhead_oci::{ContainerPlan, NetworkNamespace};

use crate::agent::StdioRequest;
use crate::config::Config;
use crate::rootfs::RootfsMount;

/// A sandbox to launch. The VM is booted knowing none of it but the size.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    /// containerd's namespace.
    pub namespace: String,
    /// The sandbox's id: the pod's, or that of the only container. Already validated.
    pub id: String,
    /// The operator's configuration.
    pub config: Config,
    /// vCPUs and memory.
    pub sizing: Size,
    /// Where the VM's tap is made.
    pub network: NetworkNamespace,
    /// Host name of the guest's root UTS namespace, which a pod's containers share: the first container's.
    /// `None`: the sandbox's id.
    pub hostname: Option<String>,
    /// The first container's cgroup; the VM's own is its sibling. Empty: none.
    pub cgroups_path: PathBuf,
}

/// A container to create.
#[derive(Debug, Clone)]
pub struct ContainerRequest {
    /// containerd's id, already validated.
    pub id: String,
    /// containerd's bundle directory, absolute.
    pub bundle: PathBuf,
    /// The spec, planned.
    pub plan: ContainerPlan,
    /// Mounts to make at `<bundle>/rootfs`, in order. Empty: `plan.host.rootfs` is ready for use.
    pub rootfs: Vec<RootfsMount>,
    /// The annotations as the bundle's spec has them; hooks are given them.
    pub spec_annotations: HashMap<String, String>,
    /// Streams of init.
    pub stdio: StdioRequest,
}
