//! What `bulkhead-vmm`, QEMU's parent, is told. The program itself is `src/bin/bulkhead-vmm.rs`.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::jail::Jail;
use crate::process::{FIRST_FREE_FD, Placement};

/// The program, beside the shim.
pub const PROGRAM: &str = "bulkhead-vmm";
/// The lifecycle lock, held by the parent and by QEMU.
pub const LOCK_FD: RawFd = FIRST_FREE_FD;
/// QEMU's control channel.
pub const QMP_FD: RawFd = FIRST_FREE_FD + 1;
/// The agent's stream.
pub const AGENT_FD: RawFd = FIRST_FREE_FD + 2;
/// The file-sharing server's socket, if there is one.
pub const SHARE_FD: RawFd = FIRST_FREE_FD + 3;
/// The tap, if there is one.
pub const TAP_FD: RawFd = FIRST_FREE_FD + 4;
/// The file of a saved VM, if there is one.
pub const SAVED_FD: RawFd = FIRST_FREE_FD + 5;

/// What to start, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentConfig {
    /// QEMU and its arguments.
    pub command: Vec<String>,
    /// The descriptors that QEMU inherits.
    pub descriptors: Vec<RawFd>,
    /// Where both belong.
    pub placement: Placement,
    /// What confines both.
    pub jail: Jail,
}
