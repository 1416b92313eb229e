//! Why the agent did not do something.

use std::time::Duration;

use bulkhead_agent_protocol::error::LinkError;
use bulkhead_agent_protocol::message::{Failed, FailureKind};
use displaydoc::Display;
use thiserror::Error;

/// Why a request was not answered, or not with success.
#[derive(Debug, Display, Error)]
pub enum AgentError {
    /// {message}
    Refused {
        /// What sort of failure.
        kind: FailureKind,
        /// The agent's words, complete in themselves: for what a container's user sees they are runc's.
        message: String,
    },
    /// the guest did not answer {what} within {after:?}
    Slow {
        /// What was asked.
        what: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// the guest answered {what} with something else
    Nonsense {
        /// What was asked.
        what: &'static str,
    },
    /// the guest's agent is gone: {0}
    Gone(#[source] LinkError),
}

impl AgentError {
    pub(super) fn refused(failed: Failed) -> Self {
        let kind = failed.kind();
        let message = match (failed.message.is_empty(), failed.stage.is_empty()) {
            (false, _) => failed.message,
            (true, false) => format!("{} failed in the guest", failed.stage),
            (true, true) => "failed in the guest".to_owned(),
        };
        Self::Refused { kind, message }
    }

    /// Whether the guest said that there is no such container or process.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                kind: FailureKind::NotFound,
                ..
            }
        )
    }
}
