//! What the agent asks of a worker, and what it hears back.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxSeccomp, Process};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Longest report in bytes: a failure's message of 4 KiB, doubled for escapes, and its other fields.
pub const MAX_REPORT: usize = 16 * 1024;

/// One piece of work.
#[derive(Serialize, Deserialize)]
pub enum Job {
    /// Make a container whose init waits.
    Create(CreateJob),
    /// Start a process in a container.
    Exec(Box<ExecJob>),
}

/// Make a container whose init waits. Descriptors: the write end of the pipe that tells how starting
/// the program went, then standard input, output and error unless there is a terminal.
#[derive(Serialize, Deserialize)]
pub struct CreateJob {
    /// Id of the container.
    pub container_id: String,
    /// Directory with `config.json`; the library's state goes below it.
    pub bundle: PathBuf,
    /// The process gets a terminal.
    pub terminal: bool,
}

/// Start a process in a container. Descriptors: a pidfd of the container's init, its cgroup's
/// directory, then standard input, output and error unless there is a terminal.
#[derive(Serialize, Deserialize)]
pub struct ExecJob {
    /// The process, validated.
    pub process: Process,
    /// `CLONE_NEW*` flags of the namespaces to join.
    pub namespaces: i32,
    /// The container's filter.
    pub seccomp: Option<LinuxSeccomp>,
    /// The container's execution domain for `personality(2)`.
    pub personality: Option<u64>,
}

/// How it went.
#[derive(Serialize, Deserialize)]
pub enum Report {
    /// A process exists; the worker is its parent until the channel closes.
    Started {
        /// Pid in the agent's pid namespace.
        pid: i32,
    },
    /// Nothing is left of it.
    Failed(Failure),
}
