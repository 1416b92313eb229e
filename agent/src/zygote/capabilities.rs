//! The capability sets of a process, from their names.

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::failure::Failure;
use crate::sys;

/// The sets as the kernel has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
}

impl Sets {
    /// The sets of `named`; an absent one is empty.
    pub fn of(named: Option<&LinuxCapabilities>) -> Self {
        let mask = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            let set = named.and_then(|sets| set(sets).as_ref());
            set.into_iter()
                .flatten()
                .fold(0, |mask, capability| mask | 1 << number(*capability))
        };
        Self {
            bounding: mask(LinuxCapabilities::bounding),
            effective: mask(LinuxCapabilities::effective),
            permitted: mask(LinuxCapabilities::permitted),
            inheritable: mask(LinuxCapabilities::inheritable),
            ambient: mask(LinuxCapabilities::ambient),
        }
    }

    /// Takes from the bounding set what is not in it. While this process still is root.
    ///
    /// # Errors
    /// `UserSetup`.
    pub fn bound(&self) -> Result<(), Failure> {
        sys::capabilities::bound(self.bounding).map_err(|errno| failed("bound", errno))
    }

    /// Takes on the other sets. After the user has been changed.
    ///
    /// # Errors
    /// `UserSetup`.
    pub fn assume(&self) -> Result<(), Failure> {
        sys::capabilities::set(self.effective, self.permitted, self.inheritable)
            .map_err(|errno| failed("set", errno))?;
        sys::capabilities::set_ambient(self.ambient).map_err(|errno| failed("set ambient", errno))
    }
}

fn failed(verb: &str, errno: Errno) -> Failure {
    Failure::os(FailureKind::UserSetup, format!("{verb} capabilities"), &errno)
}

/// As in the kernel's `capability.h`.
fn number(capability: Capability) -> u32 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_the_kernels_numbers() {
        let named: LinuxCapabilities = serde_json::from_str(
            r#"{"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "effective": ["CAP_SYS_ADMIN"]}"#,
        )
        .unwrap();
        let sets = Sets::of(Some(&named));
        assert_eq!((sets.bounding, sets.effective), (1 | 1 << 40, 1 << 21));
    }

    #[test]
    fn absent_sets_are_empty() {
        assert_eq!(Sets::of(None), Sets::default());
    }
}
