//! A container's counters, as containerd's metrics.
//!
//! The guest has cgroup v2 always; the type that containerd expects is that of the host. Every
//! sub-message is filled: clients use them without looking.

mod v1;
mod v2;

use std::path::Path;

use bulkhead_agent_protocol::message::Stats;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

/// Which cgroups the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCgroups {
    /// Separate hierarchies, or both kinds.
    V1,
    /// The unified hierarchy alone.
    V2,
}

impl HostCgroups {
    /// Looks at the host's mount.
    pub fn detect() -> Self {
        match statfs(Path::new("/sys/fs/cgroup")) {
            Ok(fs) if fs.filesystem_type() == CGROUP2_SUPER_MAGIC => Self::V2,
            _ => Self::V1,
        }
    }
}

/// The answer to Stats. Before the guest has sent anything, nothing has been used.
///
/// # Errors
/// The message cannot be encoded.
pub fn metrics(stats: Option<&Stats>, host: HostCgroups) -> protobuf::Result<Any> {
    let none = Stats {
        memory_limit: u64::MAX,
        swap_limit: u64::MAX,
        ..Stats::default()
    };
    let stats = stats.unwrap_or(&none);
    let (type_url, value) = match host {
        HostCgroups::V1 => (
            "io.containerd.cgroups.v1.Metrics",
            v1::metrics(stats).write_to_bytes()?,
        ),
        HostCgroups::V2 => (
            "io.containerd.cgroups.v2.Metrics",
            v2::metrics(stats).write_to_bytes()?,
        ),
    };
    Ok(Any {
        type_url: type_url.to_owned(),
        value,
        ..Any::default()
    })
}

/// A key of `memory.stat`, 0 where the guest's kernel does not have it.
fn memory(stats: &Stats, key: &str) -> u64 {
    stats.memory_stat.get(key).copied().unwrap_or_default()
}

#[cfg(test)]
pub(crate) fn sample() -> Stats {
    use bulkhead_agent_protocol::message::IoStat;

    Stats {
        container_id: "c".into(),
        cpu_usage_usec: 1_000,
        cpu_user_usec: 600,
        cpu_system_usec: 400,
        cpu_nr_periods: 5,
        cpu_nr_throttled: 2,
        cpu_throttled_usec: 30,
        memory_usage: 4096,
        memory_limit: 1 << 20,
        memory_peak: 8192,
        swap_usage: 10,
        swap_limit: 20,
        memory_stat: [
            ("anon", 100),
            ("file", 200),
            ("inactive_file", 50),
            ("pgfault", 7),
            ("pgmajfault", 1),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        oom_kills: 1,
        pids_current: 3,
        pids_limit: 64,
        other_pids: Vec::new(),
        io: vec![IoStat {
            major: 8,
            minor: 1,
            rbytes: 11,
            wbytes: 12,
            rios: 13,
            wios: 14,
        }],
        oom_events: 2,
        max_events: 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_follows_the_host_and_carries_no_host_name() {
        let v1 = metrics(Some(&sample()), HostCgroups::V1).unwrap();
        let v2 = metrics(Some(&sample()), HostCgroups::V2).unwrap();
        assert_eq!(v1.type_url, "io.containerd.cgroups.v1.Metrics");
        assert_eq!(v2.type_url, "io.containerd.cgroups.v2.Metrics");
    }

    #[test]
    fn before_the_first_counters_every_message_is_there_and_memory_is_unlimited() {
        use containerd_shim_protos::{cgroups::metrics::Metrics as V1, cgroups_v2::metrics::Metrics as V2};

        let v1 = V1::parse_from_bytes(&metrics(None, HostCgroups::V1).unwrap().value).unwrap();
        assert!(v1.pids.is_some() && v1.cpu.usage.is_some() && v1.blkio.is_some());
        assert_eq!(v1.memory.usage.limit, u64::MAX);
        let v2 = V2::parse_from_bytes(&metrics(None, HostCgroups::V2).unwrap().value).unwrap();
        assert!(v2.pids.is_some() && v2.cpu.is_some() && v2.io.is_some() && v2.memory_events.is_some());
        assert_eq!(v2.memory.usage_limit, u64::MAX);
    }
}
