//! The control messages, one Rust struct each, encoded as protobuf.
//!
//! Field numbers are append-only. Identity on the wire is `(container_id, exec_id)`; an empty
//! `exec_id` is the container's init. Stream ids are chosen by the host and used once in a connection.

mod disk;
mod event;
mod reply;
mod request;
#[cfg(test)]
mod tests;

use prost::{Message, Oneof};

pub use self::disk::*;
pub use self::event::*;
pub use self::reply::*;
pub use self::request::*;

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
        tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 40, 41, 42, 43, 44"
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
    /// End the link and sleep until the VM has been restored.
    #[prost(message, tag = "25")]
    PrepareToBeSaved(PrepareToBeSaved),

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
