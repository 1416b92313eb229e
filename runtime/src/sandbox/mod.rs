//! The facade the shim uses: one sandbox is one VM with the containers in it, and every resource of
//! the host that they need.
//!
//! A [`Sandbox`] is launched, containers are created in it, and it is shut down; each step is undone
//! when it fails or when its future is dropped. What happens without being asked for arrives as
//! [`SandboxEvent`]s.

mod container;
mod error;
mod event;
mod request;
mod timings;

use std::time::Duration;

use tokio::sync::mpsc;

pub use crate::agent::{StdioRequest, Streams};
pub use container::{Container, ExecHandle};
pub(crate) use error::chain;
pub use error::{ErrorKind, SandboxError};
pub use event::{ExitStatus, SandboxEvent};
pub use request::{ContainerRequest, SandboxRequest};
pub use timings::Timings;

/// A running sandbox. Clones share it; dropping the last one kills the VM.
#[derive(Debug, Clone)]
pub struct Sandbox {
    _private: (),
}

impl Sandbox {
    /// Boots the VM and makes it this sandbox: when this returns, the agent has said HELLO and taken
    /// its configuration. Dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// What failed, and for a VM that died while booting, its last words.
    pub async fn launch(
        request: SandboxRequest,
    ) -> Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>), SandboxError> {
        let _unused = request;
        Err(unfinished("launch"))
    }

    /// Prepares a container on the host and creates it in the guest, where its init waits to be started.
    ///
    /// # Errors
    /// What failed; everything done so far has been undone. A missing program and the like come in the
    /// agent's words, which are runc's.
    pub async fn create_container(&self, request: ContainerRequest) -> Result<Container, SandboxError> {
        let _unused = request;
        Err(unfinished("create"))
    }

    /// Powers the VM off in order, or by force once `deadline` has passed, and releases everything the
    /// sandbox holds on the host. May be called again.
    ///
    /// # Errors
    /// The VMM could not be killed, or a resource could not be released.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), SandboxError> {
        let _unused = deadline;
        Err(unfinished("shutdown"))
    }

    /// How long each phase of the launch took.
    pub fn timings(&self) -> Timings {
        Timings::default()
    }
}

fn unfinished(what: &str) -> SandboxError {
    SandboxError::new(ErrorKind::Unimplemented, format!("{what} is being written"))
}
