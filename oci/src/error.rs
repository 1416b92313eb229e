//! Why a spec has no plan.

use displaydoc::Display;
use thiserror::Error;

/// Why a spec has no plan. `field` is the JSON path of the offending field.
#[derive(Debug, Display, Error, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// {field}: {reason}
    Invalid {
        /// For example `process.env[3]`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// {field} is not supported: {reason}
    Unsupported {
        /// For example `hooks.startContainer`.
        field: String,
        /// Why not, and what to do instead where there is something.
        reason: String,
    },
}

impl PlanError {
    /// The JSON path of the offending field.
    pub fn field(&self) -> &str {
        match self {
            Self::Invalid { field, .. } | Self::Unsupported { field, .. } => field,
        }
    }
}

/// A field breaks a rule of the specification.
pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> PlanError {
    PlanError::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

/// A field asks for what no VM gives.
pub(crate) fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> PlanError {
    PlanError::Unsupported {
        field: field.into(),
        reason: reason.into(),
    }
}
