//! The streams of a process in the guest.

use bulkhead_agent_protocol::link::{StreamReader, StreamWriter};

/// Which streams a process gets; a missing one is /dev/null in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StdioRequest {
    /// Standard input.
    pub stdin: bool,
    /// Standard output; with a terminal, all of its output.
    pub stdout: bool,
    /// Standard error. Not with a terminal.
    pub stderr: bool,
    /// Give the process a pseudo terminal.
    pub terminal: bool,
}

/// The host's ends of a process's streams, as asked for by its [`StdioRequest`].
#[derive(Debug)]
pub struct Streams {
    /// To the process.
    pub stdin: Option<StreamWriter>,
    /// From the process.
    pub stdout: Option<StreamReader>,
    /// From the process.
    pub stderr: Option<StreamReader>,
}
