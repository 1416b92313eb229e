//! What the guest says by itself.

use prost::{Message, Oneof};

/// A process was reaped.
#[derive(Clone, PartialEq, Message)]
pub struct Exited {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Empty for init.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// How it ended.
    #[prost(oneof = "ExitStatus", tags = "3, 4")]
    pub status: Option<ExitStatus>,
    /// It left a core dump.
    #[prost(bool, tag = "5")]
    pub core_dumped: bool,
    /// The kernel killed a process of this container for want of memory since it was created.
    #[prost(bool, tag = "6")]
    pub oom_killed: bool,
    /// Guest's wall clock at reap, nanoseconds since the Unix epoch.
    #[prost(uint64, tag = "7")]
    pub unix_time_ns: u64,
}

/// How a process ended.
#[derive(Clone, PartialEq, Eq, Oneof)]
pub enum ExitStatus {
    /// By itself, with this code, 0..=255.
    #[prost(uint32, tag = "3")]
    Code(u32),
    /// By this signal.
    #[prost(uint32, tag = "4")]
    Signal(u32),
}

/// A process of this container was killed for want of memory.
#[derive(Clone, PartialEq, Message)]
pub struct Oom {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// A line for the host's log.
#[derive(Clone, PartialEq, Message)]
pub struct Log {
    /// 1 error, 2 warning, 3 info, 4 debug.
    #[prost(uint32, tag = "1")]
    pub level: u32,
    /// The line, at most 4 KiB.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// A container's counters, named after the files of cgroup v2 they are read from.
#[derive(Clone, PartialEq, Message)]
pub struct Stats {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// `cpu.stat`: usage_usec.
    #[prost(uint64, tag = "2")]
    pub cpu_usage_usec: u64,
    /// `cpu.stat`: user_usec.
    #[prost(uint64, tag = "3")]
    pub cpu_user_usec: u64,
    /// `cpu.stat`: system_usec.
    #[prost(uint64, tag = "4")]
    pub cpu_system_usec: u64,
    /// `cpu.stat`: nr_periods.
    #[prost(uint64, tag = "5")]
    pub cpu_nr_periods: u64,
    /// `cpu.stat`: nr_throttled.
    #[prost(uint64, tag = "6")]
    pub cpu_nr_throttled: u64,
    /// `cpu.stat`: throttled_usec.
    #[prost(uint64, tag = "7")]
    pub cpu_throttled_usec: u64,
    /// `memory.current`, bytes.
    #[prost(uint64, tag = "8")]
    pub memory_usage: u64,
    /// `memory.max`, bytes; `u64::MAX` is "max".
    #[prost(uint64, tag = "9")]
    pub memory_limit: u64,
    /// `memory.peak`, bytes.
    #[prost(uint64, tag = "10")]
    pub memory_peak: u64,
    /// `memory.swap.current`, bytes.
    #[prost(uint64, tag = "11")]
    pub swap_usage: u64,
    /// `memory.swap.max`, bytes; `u64::MAX` is "max".
    #[prost(uint64, tag = "12")]
    pub swap_limit: u64,
    /// `memory.stat`, the keys of containerd's MemoryStat that the kernel has.
    #[prost(btree_map = "string, uint64", tag = "13")]
    pub memory_stat: std::collections::BTreeMap<String, u64>,
    /// `memory.events`: oom_kill.
    #[prost(uint64, tag = "14")]
    pub oom_kills: u64,
    /// `pids.current`.
    #[prost(uint64, tag = "15")]
    pub pids_current: u64,
    /// `pids.max`; 0 is "max".
    #[prost(uint64, tag = "16")]
    pub pids_limit: u64,
    /// `io.stat`, one entry per device.
    #[prost(message, repeated, tag = "17")]
    pub io: Vec<IoStat>,
    /// `memory.events`: oom.
    #[prost(uint64, tag = "18")]
    pub oom_events: u64,
    /// `memory.events`: max.
    #[prost(uint64, tag = "19")]
    pub max_events: u64,
    /// Pids in the guest's root pid namespace of the processes that are neither init nor a started exec: at
    /// most [`MAX_OTHER_PIDS`](crate::control::MAX_OTHER_PIDS).
    #[prost(uint32, repeated, tag = "20")]
    pub other_pids: Vec<u32>,
}

/// One line of `io.stat`.
#[derive(Clone, PartialEq, Message)]
pub struct IoStat {
    /// Device major.
    #[prost(uint64, tag = "1")]
    pub major: u64,
    /// Device minor.
    #[prost(uint64, tag = "2")]
    pub minor: u64,
    /// Bytes read.
    #[prost(uint64, tag = "3")]
    pub rbytes: u64,
    /// Bytes written.
    #[prost(uint64, tag = "4")]
    pub wbytes: u64,
    /// Read operations.
    #[prost(uint64, tag = "5")]
    pub rios: u64,
    /// Write operations.
    #[prost(uint64, tag = "6")]
    pub wios: u64,
}
