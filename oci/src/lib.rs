//! Translates an OCI bundle into a validated plan. Pure: nothing here touches the host beyond reading
//! config.json.
//!
//! [`read_spec`] reads, [`plan()`] splits what it read into the host's part and the guest's part,
//! [`sizing`] says how large a VM it needs and [`group`] to which VM it belongs.
#![forbid(unsafe_code)]

mod annotations;
mod cgroups_path;
mod devices;
mod error;
pub mod group;
mod hooks;
pub mod id;
mod linux;
mod mount_options;
mod mounts;
mod namespaces;
mod path;
pub mod plan;
pub mod process;
pub mod resources;
mod root;
pub mod sizing;
pub mod spec;

pub use devices::BlockDevice;
pub use error::PlanError;
pub use id::{IdError, validate_id};
pub use mounts::GUEST_SHM;
pub use namespaces::joined_processes;
pub use plan::{
    BindMount, ContainerPlan, GuestPaths, HostHooks, HostPlan, NetworkNamespace, PidNamespace, plan,
};
pub use process::{ProcessPlan, inherit, plan_process, validate_process};
pub use resources::{ResourcesPlan, plan_resources};
pub use spec::{SpecError, parse_process, parse_resources, read_spec};

/// The types of the OCI runtime specification that this crate's interface uses.
pub use oci_spec::runtime;
