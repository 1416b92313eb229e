//! What the translation does with each part of a spec: a minimal spec, one change, one outcome.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::needless_pass_by_value, reason = "json!() reads best as an argument")]

mod devices;
mod mounts;
mod namespaces;
mod others;
mod process;
mod resources;
mod root;

use std::path::{Path, PathBuf};

use bulkhead_oci::runtime::{LinuxNamespaceType, Mount, Spec};
use bulkhead_oci::{ContainerPlan, GuestPaths, NetworkNamespace, PidNamespace, PlanError, plan};
use serde_json::{Value, json};

const ANNOTATION_SANDBOX: &str = "io.kubernetes.cri.sandbox-id";

/// The least that has a plan.
fn minimal() -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/", "env": ["PATH=/bin"]},
        "linux": {
            "cgroupsPath": "/default/c1",
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}
            ]
        }
    })
}

/// The minimal spec with `value` at `pointer`, planned.
fn with(pointer: &str, value: Value) -> Result<ContainerPlan, PlanError> {
    planned(changed(minimal(), pointer, value))
}

/// Sets `value` at `pointer`, making the objects on the way.
fn changed(mut spec: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut spec;
    for key in pointer.split('/').skip(1) {
        at = match key.parse::<usize>() {
            Ok(index) if at.is_array() => &mut at[index],
            _ => &mut at[key],
        };
    }
    *at = value;
    spec
}

fn planned(spec: Value) -> Result<ContainerPlan, PlanError> {
    let spec: Spec = serde_json::from_value(spec).expect("a spec");
    let guest = GuestPaths {
        container: "/run/share/c1".into(),
    };
    plan(&spec, Path::new("/bundle"), "c1", &guest)
}

fn with_mount(mount: Value) -> Result<ContainerPlan, PlanError> {
    with("/mounts", json!([mount]))
}

fn guest_mount(plan: &ContainerPlan) -> &Mount {
    &plan.guest.mounts().as_ref().expect("mounts")[0]
}

fn invalid(result: Result<ContainerPlan, PlanError>) -> String {
    match result {
        Err(PlanError::Invalid { field, .. }) => field,
        other => panic!("not invalid: {other:?}"),
    }
}

fn unsupported(result: Result<ContainerPlan, PlanError>) -> String {
    match result {
        Err(PlanError::Unsupported { field, .. }) => field,
        other => panic!("not unsupported: {other:?}"),
    }
}

fn guest_namespaces(plan: &ContainerPlan) -> Vec<LinuxNamespaceType> {
    let linux = plan.guest.linux().as_ref().expect("linux");
    let namespaces = linux.namespaces().as_ref().expect("namespaces");
    assert!(namespaces.iter().all(|namespace| namespace.path().is_none()));
    namespaces.iter().map(|namespace| namespace.typ()).collect()
}
