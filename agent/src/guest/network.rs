//! Gives the guest's one NIC the addresses of the pod's.

use bulkhead_agent_protocol::message::ConfigureNetwork;

use crate::failure::Failure;

/// Configures the NIC.
///
/// # Errors
/// Not yet.
pub async fn configure(_request: &ConfigureNetwork) -> Result<(), Failure> {
    Err(Failure::unsupported("network"))
}
