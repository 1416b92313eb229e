//! How a request went.

use prost::{Enumeration, Message, Oneof};

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
