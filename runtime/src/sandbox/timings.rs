//! Where the time of a launch goes.

use std::time::Duration;

/// How long each phase of a launch took, for logs and benchmarks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Directories, share, cgroup, netns and tap.
    pub host: Duration,
    /// From the VMM's exec to the agent's HELLO.
    pub boot: Duration,
    /// From HELLO to the acknowledged configuration.
    pub configure: Duration,
    /// Everything.
    pub total: Duration,
    /// The guest's own count, kernel start to agent start.
    pub guest_kernel: Duration,
    /// The guest's own count, kernel start to HELLO.
    pub guest_ready: Duration,
}
