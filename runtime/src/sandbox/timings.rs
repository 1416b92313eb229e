//! Where the time of a launch and of a create goes.

use std::time::Duration;

pub use crate::state::Origin;

/// How long each phase of a launch took, for logs and benchmarks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Whether the VM was restored.
    pub origin: Origin,
    /// Looking for a template.
    pub template: Duration,
    /// Directories, share, cgroup, netns and tap.
    pub host: Duration,
    /// Waiting for a turn to boot or restore.
    pub turn: Duration,
    /// From the file-sharing server's exec until it was jailed; at the same time as `vmm`.
    pub fs_server: Duration,
    /// Until the VMM ran, under its parent, and a restored guest in it.
    pub vmm: Duration,
    /// From then to the agent's HELLO.
    pub boot: Duration,
    /// From HELLO to the acknowledged configuration.
    pub configure: Duration,
    /// Everything.
    pub total: Duration,
    /// The guest's own count, kernel start to agent start; 0 for one that was restored.
    pub guest_kernel: Duration,
    /// The guest's own count, kernel start to HELLO; 0 for one that was restored.
    pub guest_ready: Duration,
}

/// How long each phase of a container's creation took, once its sandbox was up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CreateTimings {
    /// Mounts, share and cgroup.
    pub host: Duration,
    /// Until its disks were plugged in.
    pub disks: Duration,
    /// Until the anchor ran.
    pub anchor: Duration,
    /// The anchor's move into its cgroup, the hooks, and the guest's part, up to an init that waits.
    pub guest: Duration,
}
