//! What init waits at between Create and Start, and where it tells why its program did not start after all.
//! One socket: the agent sends a byte to open it; the exec of the program closes it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use bulkhead_agent_protocol::message::Failed;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use prost::Message;

use crate::failure::Failure;

/// What opens the gate.
pub const OPEN: &[u8] = b"s";

/// The agent's end and init's.
///
/// # Errors
/// As `socketpair(2)`.
pub fn new() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
}

/// Init's end.
pub struct Gate(File);

impl Gate {
    /// Init waits at `socket`.
    pub fn of(socket: OwnedFd) -> Self {
        Self(File::from(socket))
    }

    /// Waits until the gate is opened; `false` if it never will be.
    pub fn wait(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(1))
    }

    /// Tells why the program did not start. Best effort: a filter may forbid writing, and then the agent
    /// sees only that init has ended.
    pub fn refuse(mut self, failure: Failure) {
        // See above.
        let _ = self.0.write_all(&Failed::from(failure).encode_to_vec());
    }
}
