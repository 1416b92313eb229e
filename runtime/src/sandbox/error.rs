//! What can go wrong with a sandbox, in the words the user gets to read.

use std::io;

use bulkhead_agent_protocol::message::FailureKind;
use bulkhead_oci::PlanError;
use displaydoc::Display;
use thiserror::Error;

use crate::agent::AgentError;
use crate::anchor::AnchorError;
use crate::cgroup::CgroupError;
use crate::fs_server::FsServerError;
use crate::hooks::HookError;
use crate::mount::MountError;
use crate::network::NetworkError;
use crate::process::ProcessError;
use crate::rootfs::RootfsError;
use crate::state::StateError;
use crate::vmm::VmmError;

/// What sort of failure; the shim turns it into a status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such container, process or file.
    NotFound,
    /// The id is taken.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// The request itself is wrong.
    InvalidArgument,
    /// The VM is gone or cannot be reached.
    Unavailable,
    /// Took too long.
    DeadlineExceeded,
    /// Bulkhead does not do that.
    Unimplemented,
    /// Anything else.
    Internal,
}

/// {message}
#[derive(Debug, Display, Error)]
pub struct SandboxError {
    kind: ErrorKind,
    message: String,
}

impl SandboxError {
    /// An error of `kind`; `message` is complete in itself, since it is shown to the user as it is.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// `cause` and everything below it in one line, behind what was being done.
    pub(crate) fn doing(kind: ErrorKind, what: &str, cause: &dyn std::error::Error) -> Self {
        Self::new(kind, format!("{what}: {}", chain(cause)))
    }
}

impl From<AgentError> for SandboxError {
    fn from(error: AgentError) -> Self {
        let kind = match &error {
            AgentError::Refused { kind, .. } => match kind {
                FailureKind::InvalidArgument | FailureKind::ResourceLimit => ErrorKind::InvalidArgument,
                FailureKind::NotFound => ErrorKind::NotFound,
                FailureKind::AlreadyExists => ErrorKind::AlreadyExists,
                FailureKind::FailedPrecondition => ErrorKind::FailedPrecondition,
                FailureKind::Unsupported => ErrorKind::Unimplemented,
                FailureKind::Other
                | FailureKind::ExecutableNotFound
                | FailureKind::PermissionDenied
                | FailureKind::NotExecutable
                | FailureKind::BadCwd
                | FailureKind::UserSetup
                | FailureKind::Mount
                | FailureKind::Cgroup
                | FailureKind::Pty => ErrorKind::Internal,
            },
            AgentError::Slow { .. } => ErrorKind::DeadlineExceeded,
            AgentError::Nonsense { .. } => ErrorKind::Internal,
            AgentError::Gone(_) => ErrorKind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

/// A path that is not there was named by the request.
pub(super) fn kind_of_mount(error: &MountError) -> ErrorKind {
    match error {
        MountError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ErrorKind::InvalidArgument
        }
        _ => ErrorKind::Internal,
    }
}

impl From<MountError> for SandboxError {
    fn from(error: MountError) -> Self {
        Self::new(kind_of_mount(&error), chain(&error))
    }
}

impl From<RootfsError> for SandboxError {
    fn from(error: RootfsError) -> Self {
        let kind = match &error {
            RootfsError::Unsupported(_) => ErrorKind::Unimplemented,
            RootfsError::Invalid { .. } => ErrorKind::InvalidArgument,
            RootfsError::Disk { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput => {
                ErrorKind::InvalidArgument
            }
            RootfsError::Disk { .. } => ErrorKind::FailedPrecondition,
            RootfsError::Mount(error) => kind_of_mount(error),
            RootfsError::FileSystem { .. } | RootfsError::Make { .. } => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<CgroupError> for SandboxError {
    fn from(error: CgroupError) -> Self {
        let kind = match &error {
            CgroupError::Path(_) => ErrorKind::InvalidArgument,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<NetworkError> for SandboxError {
    fn from(error: NetworkError) -> Self {
        let kind = match &error {
            NetworkError::Open { .. } => ErrorKind::InvalidArgument,
            NetworkError::Taken => ErrorKind::FailedPrecondition,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<PlanError> for SandboxError {
    fn from(error: PlanError) -> Self {
        let kind = match &error {
            PlanError::Invalid { .. } => ErrorKind::InvalidArgument,
            PlanError::Unsupported { .. } => ErrorKind::Unimplemented,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<VmmError> for SandboxError {
    fn from(error: VmmError) -> Self {
        let kind = match &error {
            VmmError::NotFound { .. } => ErrorKind::FailedPrecondition,
            VmmError::Died(_) => ErrorKind::Unavailable,
            VmmError::Disk { .. } => ErrorKind::FailedPrecondition,
            VmmError::Slow { .. } => ErrorKind::DeadlineExceeded,
            VmmError::Unsupported(_) => ErrorKind::Unimplemented,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, chain(&error))
    }
}

/// Errors that are all of one kind: something of the host's own did not work.
macro_rules! internal {
    ($($error:ty),*) => {$(
        impl From<$error> for SandboxError {
            fn from(error: $error) -> Self {
                Self::new(ErrorKind::Internal, chain(&error))
            }
        }
    )*};
}
internal!(AnchorError, FsServerError, HookError, ProcessError, StateError);

/// An error and its sources in one line. A source whose text the error already carries is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Display, Error)]
    /// outer
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_names_each_cause_once() {
        let error = Outer(std::io::Error::from_raw_os_error(2));
        let text = SandboxError::doing(ErrorKind::Internal, "mounting", &error).to_string();
        assert_eq!(text, "mounting: outer: No such file or directory (os error 2)");
    }
}
