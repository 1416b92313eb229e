//! What the agent asks of a worker, and what it hears back. In the protocol's own encoding, whose code has run
//! in this VM already.

use bulkhead_agent_protocol::message::{Failed, Started};
use prost::{Message, Oneof};

/// Longest report in bytes: a failure's message of 4 KiB, its stage and its numbers.
pub const MAX_REPORT: usize = 16 * 1024;

/// One piece of work.
#[derive(Clone, PartialEq, Message)]
pub struct Job {
    /// Which.
    #[prost(oneof = "Work", tags = "1, 2")]
    pub work: Option<Work>,
}

/// One piece of work.
#[derive(Clone, PartialEq, Oneof)]
pub enum Work {
    /// Make a container whose init waits.
    #[prost(message, tag = "1")]
    Create(CreateJob),
    /// Start a process in a container.
    #[prost(message, tag = "2")]
    Exec(ExecJob),
}

/// Make a container whose init waits. Descriptors: its cgroup's directory, init's end of the gate, then if
/// `joins_pids` a pidfd of who is in the PID namespace to join, then standard input, output and error unless
/// there is a terminal.
#[derive(Clone, PartialEq, Message)]
pub struct CreateJob {
    /// `config.json`, which the agent has checked. It is parsed once more rather than written out again.
    #[prost(bytes = "vec", tag = "1")]
    pub spec: Vec<u8>,
    /// The process gets a terminal.
    #[prost(bool, tag = "2")]
    pub terminal: bool,
    /// Where its root is, if not where the spec says.
    #[prost(string, optional, tag = "3")]
    pub root: Option<String>,
    /// Init is born in another container's PID namespace.
    #[prost(bool, tag = "4")]
    pub joins_pids: bool,
    /// What `startContainer` hooks are told, as JSON, but for init's pid.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub hook_state: Option<Vec<u8>>,
    /// The host name where the spec has none: init may be older than the guest's own.
    #[prost(string, tag = "6")]
    pub hostname: String,
    /// Numbers of devices that the spec lists without.
    #[prost(message, repeated, tag = "7")]
    pub numbers: Vec<DeviceNumber>,
}

/// Which device a node of `linux.devices` is of.
#[derive(Clone, PartialEq, Message)]
pub struct DeviceNumber {
    /// The node in the container.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Its device.
    #[prost(uint32, tag = "2")]
    pub major: u32,
    /// See `major`.
    #[prost(uint32, tag = "3")]
    pub minor: u32,
}

/// Start a process in a container. Descriptors: a pidfd of the container's init, its cgroup's
/// directory, then standard input, output and error unless there is a terminal.
#[derive(Clone, PartialEq, Message)]
pub struct ExecJob {
    /// The process as JSON, which the agent has checked.
    #[prost(bytes = "vec", tag = "1")]
    pub process: Vec<u8>,
    /// The process gets a terminal.
    #[prost(bool, tag = "2")]
    pub terminal: bool,
    /// `CLONE_NEW*` flags of the namespaces to join.
    #[prost(int32, tag = "3")]
    pub namespaces: i32,
    /// The container's filter as JSON, if it has one.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub seccomp: Option<Vec<u8>>,
    /// The container's execution domain for `personality(2)`.
    #[prost(uint64, optional, tag = "5")]
    pub personality: Option<u64>,
}

/// How it went.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// What there is to tell.
    #[prost(oneof = "Outcome", tags = "1, 2")]
    pub outcome: Option<Outcome>,
}

/// How it went.
#[derive(Clone, PartialEq, Oneof)]
pub enum Outcome {
    /// A process exists; the worker is its parent until the channel closes.
    #[prost(message, tag = "1")]
    Started(Started),
    /// Nothing is left of it.
    #[prost(message, tag = "2")]
    Failed(Failed),
}
