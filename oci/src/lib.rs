//! Translates an OCI bundle into a validated plan. Pure: nothing here touches the host beyond reading
//! config.json.
//!
//! [`read_spec`] reads, [`plan()`] splits what it read into the host's part and the guest's part,
//! [`sizing`] says how large a VM it needs and [`group`] to which VM it belongs.
#![forbid(unsafe_code)]

pub mod group;
pub mod id;
pub mod plan;
pub mod process;
pub mod sizing;
pub mod spec;

pub use id::{IdError, validate_id};
pub use plan::{
    BindMount, ContainerPlan, GuestPaths, HostHooks, HostPlan, NetworkNamespace, PidNamespace, PlanError,
    plan,
};
pub use process::{ProcessPlan, plan_process, validate_process};
pub use spec::{SpecError, parse_process, parse_resources, read_spec};

/// The types of the OCI runtime specification that this crate's interface uses.
pub use oci_spec::runtime;
