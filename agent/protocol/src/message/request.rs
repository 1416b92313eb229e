//! What the host asks of the guest.

use prost::Message;

use super::{BlockDevice, Disk, RootMount};

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
    /// Disks of the container, to be looked for, and given up when it is deleted.
    #[prost(message, repeated, tag = "4")]
    pub disks: Vec<Disk>,
    /// How its root file system is put together from them, in order. Empty: it is at the spec's `root.path`,
    /// which otherwise means nothing.
    #[prost(message, repeated, tag = "5")]
    pub root: Vec<RootMount>,
    /// Container whose PID namespace init joins. Then the spec lists none.
    #[prost(string, optional, tag = "6")]
    pub pid_namespace_of: Option<String>,
    /// What the spec's `startContainer` hooks are told: the container's state as JSON, but for `pid`.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub hook_state: Option<Vec<u8>>,
    /// Disks that it sees as block devices.
    #[prost(message, repeated, tag = "8")]
    pub block_devices: Vec<BlockDevice>,
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

/// Become a sleeper, see `wake`. Only of an agent that has not been told who it is: what it knows would be in
/// every copy.
#[derive(Clone, PartialEq, Message)]
pub struct PrepareToBeSaved {}

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
