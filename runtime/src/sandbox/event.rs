//! What happens in a sandbox without being asked for.

use std::time::SystemTime;

use bulkhead_agent_protocol::message;

/// Something happened. Events of one sandbox arrive in the order in which they happened.
#[derive(Debug, Clone, PartialEq)]
pub enum SandboxEvent {
    /// A process was reaped. Its output may still be on its way.
    Exited {
        /// containerd's id.
        container_id: String,
        /// Empty for init.
        exec_id: String,
        /// How it ended.
        status: ExitStatus,
        /// The kernel killed a process of the container for want of memory.
        oom_killed: bool,
        /// It left a core dump in the guest.
        core_dumped: bool,
        /// The host's clock when the news arrived.
        at: SystemTime,
    },
    /// A process of the container was killed for want of memory. Precedes its `Exited`.
    Oom {
        /// containerd's id.
        container_id: String,
    },
    /// The VM is gone, and every process with it. The last event of a sandbox.
    VmGone {
        /// For the user, one line.
        reason: String,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this code, 0..=255.
    Code(u8),
    /// By this signal, 1..=64.
    Signal(u8),
}

/// A shell's convention, which containerd follows: death by signal N is this plus N.
const SIGNAL_BASE: u32 = 128;
/// Reported for an exit whose status the guest did not tell in a way that makes sense.
const UNKNOWN_STATUS: ExitStatus = ExitStatus::Code(255);

impl ExitStatus {
    /// The number containerd is told.
    pub fn containerd_status(self) -> u32 {
        match self {
            Self::Code(code) => u32::from(code),
            Self::Signal(signal) => SIGNAL_BASE + u32::from(signal),
        }
    }

    /// The guest's word, which may be nonsense.
    pub(crate) fn from_guest(status: Option<&message::ExitStatus>) -> Self {
        match status {
            Some(message::ExitStatus::Code(code)) => u8::try_from(*code).map_or(UNKNOWN_STATUS, Self::Code),
            Some(message::ExitStatus::Signal(signal @ 1..=64)) => Self::Signal(*signal as u8),
            Some(message::ExitStatus::Signal(_)) | None => UNKNOWN_STATUS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_signals_above_128() {
        assert_eq!(ExitStatus::Code(7).containerd_status(), 7);
        assert_eq!(ExitStatus::Signal(9).containerd_status(), 137);
    }

    #[test]
    fn a_guest_that_lies_about_a_status_is_not_believed() {
        let from = |status| ExitStatus::from_guest(Some(&status));
        assert_eq!(from(message::ExitStatus::Code(255)), ExitStatus::Code(255));
        assert_eq!(from(message::ExitStatus::Code(256)), UNKNOWN_STATUS);
        assert_eq!(from(message::ExitStatus::Signal(64)), ExitStatus::Signal(64));
        assert_eq!(from(message::ExitStatus::Signal(0)), UNKNOWN_STATUS);
        assert_eq!(from(message::ExitStatus::Signal(u32::MAX)), UNKNOWN_STATUS);
        assert_eq!(ExitStatus::from_guest(None), UNKNOWN_STATUS);
    }
}
