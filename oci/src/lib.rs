//! Translates an OCI bundle into a validated plan. Pure: nothing here touches the host beyond reading config.json.
#![forbid(unsafe_code)]

pub mod plan;

pub use plan::{BindMount, ContainerPlan, GuestPaths, HostHooks, HostPlan, NetworkNamespace};
