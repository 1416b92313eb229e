//! Why a request was not done, in the protocol's terms.

use bulkhead_agent_protocol::message::{Failed, FailureKind};
use nix::errno::Errno;

/// Longest message sent to the host, in bytes: the protocol's limit for error texts.
const MAX_MESSAGE: usize = 4096;

/// A request that was not done. `message` is for the user and complete in itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    kind: i32,
    /// Linux errno where one caused it, else 0.
    pub errno: i32,
    /// What was being done.
    pub stage: String,
    /// What went wrong, with which object and why.
    pub message: String,
}

/// An operating system error that a [`Failure`] can be made of.
pub trait OsError {
    /// The errno, or 0.
    fn errno(&self) -> i32;
    /// In words, as the C library has them.
    fn words(&self) -> String;
}

impl Failure {
    /// A failure without an errno.
    pub fn new(kind: FailureKind, stage: impl Into<String>, message: impl Into<String>) -> Self {
        let mut message = message.into();
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            kind: kind.into(),
            errno: 0,
            stage: stage.into(),
            message,
        }
    }

    /// A failure that the kernel's answer caused: `{stage}: {reason}`.
    pub fn os(kind: FailureKind, stage: impl Into<String>, error: &impl OsError) -> Self {
        let stage = stage.into();
        let message = format!("{stage}: {}", error.words());
        Self {
            errno: error.errno(),
            ..Self::new(kind, stage, message)
        }
    }

    /// The request itself is malformed.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(FailureKind::InvalidArgument, "request", message)
    }

    /// This agent does not do that.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unsupported, "request", message)
    }

    /// The container or process is in the wrong state.
    pub fn state(message: impl Into<String>) -> Self {
        Self::new(FailureKind::FailedPrecondition, "request", message)
    }

    /// No such container or process.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, "request", message)
    }

    /// Adds the errno that caused it.
    #[must_use]
    pub fn with_errno(mut self, errno: i32) -> Self {
        self.errno = errno;
        self
    }

    /// What sort of failure.
    pub fn kind(&self) -> FailureKind {
        FailureKind::try_from(self.kind).unwrap_or(FailureKind::Other)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            kind: failure.kind,
            errno: failure.errno,
            stage: failure.stage,
            message: failure.message,
        }
    }
}

impl From<Failed> for Failure {
    fn from(failed: Failed) -> Self {
        Self {
            kind: failed.kind,
            errno: failed.errno,
            stage: failed.stage,
            message: failed.message,
        }
    }
}

impl OsError for Errno {
    fn errno(&self) -> i32 {
        *self as i32
    }

    fn words(&self) -> String {
        self.desc().to_lowercase()
    }
}

impl OsError for std::io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }

    fn words(&self) -> String {
        match self.raw_os_error() {
            Some(raw) => Errno::from_raw(raw).words(),
            None => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_os_failure_names_stage_and_reason() {
        let failure = Failure::os(FailureKind::BadCwd, "chdir /nowhere", &Errno::ENOENT);
        assert_eq!(failure.message, "chdir /nowhere: no such file or directory");
        assert_eq!(failure.errno, libc::ENOENT);
        assert_eq!(failure.kind(), FailureKind::BadCwd);
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let failure = Failure::new(FailureKind::Other, "x", "é".repeat(MAX_MESSAGE));
        assert_eq!(failure.message.len(), MAX_MESSAGE);
        let failure = Failure::new(FailureKind::Other, "x", format!("a{}", "é".repeat(MAX_MESSAGE)));
        assert_eq!(failure.message.len(), MAX_MESSAGE - 1);
    }
}
