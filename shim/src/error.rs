//! Failures of task calls, and the one place where they become ttrpc status codes.

use bulkhead_oci::PlanError;
use bulkhead_runtime::sandbox::{ErrorKind, SandboxError};
use displaydoc::Display;
use thiserror::Error;
use ttrpc::{Code, get_status};

use crate::process_state::StateError;
use crate::stdio::StdioError;

/// A failed call. Texts are runc's where a client or a user knows runc's; containerd's errors end with
/// the name of their class, and callers look for it.
#[derive(Debug, Display, Error)]
pub enum TaskError {
    /// container not created: not found
    NoContainer,
    /// process does not exist {0}: not found
    NoProcess(String),
    /// container {0}: already exists
    ContainerExists(String),
    /// id {0}: already exists
    ExecExists(String),
    /// {what}: {source}
    BadRequest {
        /// What was asked for.
        what: &'static str,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// {what}: {source}
    Plan {
        /// Which part of a spec.
        what: &'static str,
        /// What is wrong with it.
        source: PlanError,
    },
    /// {0}
    State(#[from] StateError),
    /// {0}
    Stdio(#[from] StdioError),
    /// {0}
    Sandbox(#[from] SandboxError),
    /// {0}: not implemented
    Unimplemented(&'static str),
    /// the sandbox is shutting down: unavailable
    ShuttingDown,
    /// internal error: {0}
    Internal(String),
}

impl TaskError {
    /// A request that makes no sense.
    pub fn bad_request(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::BadRequest {
            what,
            source: source.into(),
        }
    }

    /// The status code the caller sees.
    pub fn code(&self) -> Code {
        match self {
            Self::NoContainer | Self::NoProcess(_) => Code::NOT_FOUND,
            Self::ContainerExists(_) | Self::ExecExists(_) => Code::ALREADY_EXISTS,
            Self::BadRequest { .. }
            | Self::Plan {
                source: PlanError::Invalid { .. },
                ..
            } => Code::INVALID_ARGUMENT,
            Self::Plan {
                source: PlanError::Unsupported { .. },
                ..
            } => Code::UNIMPLEMENTED,
            Self::State(error) if error.is_gone() => Code::NOT_FOUND,
            Self::State(_) => Code::FAILED_PRECONDITION,
            Self::Stdio(error) if error.is_callers_fault() => Code::INVALID_ARGUMENT,
            Self::Stdio(error) if error.is_not_found() => Code::NOT_FOUND,
            Self::Stdio(_) | Self::Internal(_) => Code::UNKNOWN,
            Self::Sandbox(error) => code_of(error.kind()),
            Self::Unimplemented(_) => Code::UNIMPLEMENTED,
            Self::ShuttingDown => Code::UNAVAILABLE,
        }
    }
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::FailedPrecondition => Code::FAILED_PRECONDITION,
        ErrorKind::InvalidArgument => Code::INVALID_ARGUMENT,
        ErrorKind::Unavailable => Code::UNAVAILABLE,
        ErrorKind::DeadlineExceeded => Code::DEADLINE_EXCEEDED,
        ErrorKind::Unimplemented => Code::UNIMPLEMENTED,
        // As runc's shim reports failures of runc.
        ErrorKind::Internal => Code::UNKNOWN,
    }
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        Self::RpcStatus(get_status(error.code(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_failure_has_its_code() {
        let sandbox = |kind| TaskError::from(SandboxError::new(kind, "x"));
        let plan = |source| TaskError::Plan {
            what: "config.json",
            source,
        };
        let cases = [
            (TaskError::NoContainer, Code::NOT_FOUND),
            (TaskError::NoProcess("e".into()), Code::NOT_FOUND),
            (TaskError::ContainerExists("c".into()), Code::ALREADY_EXISTS),
            (TaskError::ExecExists("e".into()), Code::ALREADY_EXISTS),
            (TaskError::bad_request("spec", "empty"), Code::INVALID_ARGUMENT),
            (
                plan(PlanError::Invalid {
                    field: "a".into(),
                    reason: "b".into(),
                }),
                Code::INVALID_ARGUMENT,
            ),
            (
                plan(PlanError::Unsupported {
                    field: "a".into(),
                    reason: "b".into(),
                }),
                Code::UNIMPLEMENTED,
            ),
            (StateError::Finished.into(), Code::NOT_FOUND),
            (StateError::NotStarted.into(), Code::FAILED_PRECONDITION),
            (sandbox(ErrorKind::Unavailable), Code::UNAVAILABLE),
            (sandbox(ErrorKind::DeadlineExceeded), Code::DEADLINE_EXCEEDED),
            (sandbox(ErrorKind::Internal), Code::UNKNOWN),
            (TaskError::Unimplemented("checkpoint"), Code::UNIMPLEMENTED),
            (TaskError::ShuttingDown, Code::UNAVAILABLE),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error}");
        }
    }

    #[test]
    fn texts_are_those_of_runcs_shim() {
        assert_eq!(
            TaskError::NoContainer.to_string(),
            "container not created: not found"
        );
        assert_eq!(
            TaskError::ExecExists("e1".into()).to_string(),
            "id e1: already exists"
        );
    }
}
