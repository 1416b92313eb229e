//! The control messages, one Rust struct each, encoded as protobuf.
//!
//! Field numbers are append-only. Identity on the wire is `(container_id, exec_id)`; an empty
//! `exec_id` is the container's init. Stream ids are chosen by the host and live until both
//! directions have ended.

use prost::{Enumeration, Message, Oneof};

/// One control frame's payload.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// Correlates a reply with its request; chosen by the host, never reused within an epoch.
    /// Events carry 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What is said.
    #[prost(
        oneof = "Body",
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 40, 41, 42, 43, 44"
    )]
    pub body: Option<Body>,
}

/// Every message of the protocol. Requests (10..=39) go from host to guest, the rest from guest to host.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// First message after HELLO: what this VM is to become.
    #[prost(message, tag = "10")]
    ConfigureSandbox(ConfigureSandbox),
    /// Set the wall clock.
    #[prost(message, tag = "11")]
    SyncClock(SyncClock),
    /// Create a container; its init waits for `StartContainer`.
    #[prost(message, tag = "12")]
    CreateContainer(CreateContainer),
    /// Release a created container's init.
    #[prost(message, tag = "13")]
    StartContainer(StartContainer),
    /// Start a further process in a container.
    #[prost(message, tag = "14")]
    Exec(Exec),
    /// Send a signal.
    #[prost(message, tag = "15")]
    Kill(Kill),
    /// Set a terminal's size.
    #[prost(message, tag = "16")]
    ResizePty(ResizePty),
    /// Freeze a container's cgroup.
    #[prost(message, tag = "17")]
    Pause(Pause),
    /// Thaw it.
    #[prost(message, tag = "18")]
    Resume(Resume),
    /// Change a container's resource limits.
    #[prost(message, tag = "19")]
    Update(Update),
    /// List a container's processes.
    #[prost(message, tag = "20")]
    Pids(Pids),
    /// Forget an exited process; for an init, remove the container.
    #[prost(message, tag = "21")]
    Delete(Delete),
    /// Sync, unmount, power off.
    #[prost(message, tag = "22")]
    Shutdown(Shutdown),
    /// Are you there?
    #[prost(message, tag = "23")]
    Ping(Ping),
    /// Set addresses and routes of the sandbox's NIC.
    #[prost(message, tag = "24")]
    ConfigureNetwork(ConfigureNetwork),

    /// The answer to the request with the same id.
    #[prost(message, tag = "40")]
    Reply(Reply),
    /// A process was reaped. Its output may still be on its way.
    #[prost(message, tag = "41")]
    Exited(Exited),
    /// The kernel killed a process of a container for want of memory. Precedes that process's `Exited`.
    #[prost(message, tag = "42")]
    Oom(Oom),
    /// A container's resource counters, sent about once a second while they change and once at exit.
    #[prost(message, tag = "43")]
    Stats(Stats),
    /// A line for the host's log.
    #[prost(message, tag = "44")]
    Log(Log),
}

/// Identity and surroundings of the sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureSandbox {
    /// Host name of the guest's root UTS namespace.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// Nanoseconds since the Unix epoch, now.
    #[prost(uint64, tag = "2")]
    pub unix_time_ns: u64,
    /// Fresh randomness of the host, mixed in before anything else runs. At least 32 bytes.
    #[prost(bytes = "vec", tag = "3")]
    pub entropy: Vec<u8>,
}

/// The wall clock.
#[derive(Clone, PartialEq, Message)]
pub struct SyncClock {
    /// Nanoseconds since the Unix epoch, now.
    #[prost(uint64, tag = "1")]
    pub unix_time_ns: u64,
}

/// The streams of one process. An absent stream is /dev/null in the guest.
#[derive(Clone, PartialEq, Message)]
pub struct Stdio {
    /// Stream that carries standard input to the guest.
    #[prost(uint32, optional, tag = "1")]
    pub stdin: Option<u32>,
    /// Stream that carries standard output (of a terminal: everything) to the host.
    #[prost(uint32, optional, tag = "2")]
    pub stdout: Option<u32>,
    /// Stream that carries standard error to the host. Never with a terminal.
    #[prost(uint32, optional, tag = "3")]
    pub stderr: Option<u32>,
    /// Give the process a pseudo terminal; its first size is `process.consoleSize`, or a later `ResizePty`.
    #[prost(bool, tag = "4")]
    pub terminal: bool,
}

/// Create a container.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainer {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// OCI runtime spec as JSON, already translated for the guest: root.path and the sources of
    /// bind mounts are paths of the guest.
    #[prost(bytes = "vec", tag = "2")]
    pub spec: Vec<u8>,
    /// Streams of init.
    #[prost(message, optional, tag = "3")]
    pub stdio: Option<Stdio>,
}

/// Start a created container.
#[derive(Clone, PartialEq, Message)]
pub struct StartContainer {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Start a further process in a created or running container.
#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Id of the new process, unique within the container.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// OCI `Process` as JSON.
    #[prost(bytes = "vec", tag = "3")]
    pub process: Vec<u8>,
    /// Its streams.
    #[prost(message, optional, tag = "4")]
    pub stdio: Option<Stdio>,
}

/// Send a signal.
#[derive(Clone, PartialEq, Message)]
pub struct Kill {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Empty for init.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Linux signal number, 0..=64.
    #[prost(uint32, tag = "3")]
    pub signal: u32,
    /// To every process of the container.
    #[prost(bool, tag = "4")]
    pub all: bool,
}

/// Set a terminal's size.
#[derive(Clone, PartialEq, Message)]
pub struct ResizePty {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Empty for init.
    #[prost(string, tag = "2")]
    pub exec_id: String,
    /// Columns.
    #[prost(uint32, tag = "3")]
    pub width: u32,
    /// Rows.
    #[prost(uint32, tag = "4")]
    pub height: u32,
}

/// Freeze a container.
#[derive(Clone, PartialEq, Message)]
pub struct Pause {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Thaw a container.
#[derive(Clone, PartialEq, Message)]
pub struct Resume {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Change resource limits.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// OCI `LinuxResources` as JSON; what is absent stays.
    #[prost(bytes = "vec", tag = "2")]
    pub resources: Vec<u8>,
}

/// List processes.
#[derive(Clone, PartialEq, Message)]
pub struct Pids {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
}

/// Forget a process or remove a container.
#[derive(Clone, PartialEq, Message)]
pub struct Delete {
    /// containerd's id.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// Empty for init, and with it the container. A created init is killed first.
    #[prost(string, tag = "2")]
    pub exec_id: String,
}

/// Power off in order.
#[derive(Clone, PartialEq, Message)]
pub struct Shutdown {}

/// Liveness.
#[derive(Clone, PartialEq, Message)]
pub struct Ping {}

/// Addresses and routes of the one NIC. Loopback is always up.
#[derive(Clone, PartialEq, Message)]
pub struct ConfigureNetwork {
    /// Name the interface gets, as in the pod's netns.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its hardware address, six bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub mac: Vec<u8>,
    /// Maximum transfer unit in bytes.
    #[prost(uint32, tag = "3")]
    pub mtu: u32,
    /// Addresses with prefix length, for example `10.88.0.2/16`.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// Routes, in the order in which they are to be added.
    #[prost(message, repeated, tag = "5")]
    pub routes: Vec<Route>,
    /// Static neighbours.
    #[prost(message, repeated, tag = "6")]
    pub neighbours: Vec<Neighbour>,
}

/// One route.
#[derive(Clone, PartialEq, Message)]
pub struct Route {
    /// Destination with prefix length; empty is the default route.
    #[prost(string, tag = "1")]
    pub destination: String,
    /// Next hop; empty is on-link.
    #[prost(string, tag = "2")]
    pub gateway: String,
    /// Preferred source address; empty is the kernel's choice.
    #[prost(string, tag = "3")]
    pub source: String,
    /// Kernel scope number (`RT_SCOPE_*`).
    #[prost(uint32, tag = "4")]
    pub scope: u32,
}

/// One static neighbour.
#[derive(Clone, PartialEq, Message)]
pub struct Neighbour {
    /// IP address.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Hardware address, six bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub mac: Vec<u8>,
}

/// The answer to a request.
#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    /// How it went.
    #[prost(oneof = "Outcome", tags = "1, 2, 3, 4")]
    pub outcome: Option<Outcome>,
}

/// How a request went.
#[derive(Clone, PartialEq, Oneof)]
pub enum Outcome {
    /// Done, nothing to say.
    #[prost(message, tag = "1")]
    Done(Done),
    /// Not done.
    #[prost(message, tag = "2")]
    Failed(Failed),
    /// A process exists; its pid in the guest's root pid namespace.
    #[prost(message, tag = "3")]
    Started(Started),
    /// The processes of a container.
    #[prost(message, tag = "4")]
    Processes(Processes),
}

/// Success without a value.
#[derive(Clone, PartialEq, Message)]
pub struct Done {}

/// A process exists.
#[derive(Clone, PartialEq, Message)]
pub struct Started {
    /// Its pid in the guest's root pid namespace.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
}

/// Processes of a container.
#[derive(Clone, PartialEq, Message)]
pub struct Processes {
    /// Each process, init first.
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<ProcessInfo>,
}

/// One process.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessInfo {
    /// Pid in the guest's root pid namespace.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Its exec id where it is init (empty) or a started exec; absent for their descendants.
    #[prost(string, optional, tag = "2")]
    pub exec_id: Option<String>,
}

/// Why a request was not done.
#[derive(Clone, PartialEq, Message)]
pub struct Failed {
    /// What sort of failure.
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub kind: i32,
    /// Linux errno where one caused it, else 0.
    #[prost(int32, tag = "2")]
    pub errno: i32,
    /// What was being done, for example `mount /proc` or `execve`.
    #[prost(string, tag = "3")]
    pub stage: String,
    /// For the user, complete in itself. At most 4 KiB.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// Sorts of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum FailureKind {
    /// Anything not named below.
    Other = 0,
    /// The program does not exist.
    ExecutableNotFound = 1,
    /// The program exists but may not be executed.
    PermissionDenied = 2,
    /// The program has no format the kernel knows.
    NotExecutable = 3,
    /// The working directory cannot be entered.
    BadCwd = 4,
    /// A resource limit is unknown or cannot be set.
    ResourceLimit = 5,
    /// User, groups or capabilities cannot be set.
    UserSetup = 6,
    /// A mount failed.
    Mount = 7,
    /// A cgroup could not be made or configured.
    Cgroup = 8,
    /// Terminal allocation failed.
    Pty = 9,
    /// The request itself is malformed.
    InvalidArgument = 10,
    /// No such container or process.
    NotFound = 11,
    /// The id is taken.
    AlreadyExists = 12,
    /// The container or process is in the wrong state.
    FailedPrecondition = 13,
    /// This agent does not do that.
    Unsupported = 14,
}

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

/// Payload of a HELLO frame, from both sides.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// Highest protocol generation the sender speaks, at least 1; both use the lower of the two.
    /// Epochs are not here but in SYNC, which comes before (`frame::Sync`).
    #[prost(uint32, tag = "1")]
    pub generation: u32,
    /// Of the guest: version of the agent.
    #[prost(string, tag = "3")]
    pub agent_version: String,
    /// Of the guest: nanoseconds from kernel start to agent start, and to this HELLO (CLOCK_BOOTTIME).
    #[prost(uint64, tag = "4")]
    pub agent_started_ns: u64,
    /// See `agent_started_ns`.
    #[prost(uint64, tag = "5")]
    pub ready_ns: u64,
    /// Of the guest: `uname -r`.
    #[prost(string, tag = "6")]
    pub kernel_release: String,
}

#[cfg(test)]
mod tests;
