use crate::*;
use LinuxNamespaceType::{Cgroup, Ipc, Mount, Pid, Time, Uts};

fn of(list: Value) -> Result<ContainerPlan, PlanError> {
    with("/linux/namespaces", list)
}

/// A container of a pod, as CRI writes it.
fn member(pid: Value) -> Result<ContainerPlan, PlanError> {
    let shared = |kind: &str| json!({"type": kind, "path": format!("/proc/77/ns/{kind}")});
    let net = json!({"type": "network", "path": "/proc/77/ns/net"});
    let list = json!([pid, shared("ipc"), shared("uts"), {"type": "mount"}, net]);
    let spec = changed(minimal(), "/linux/namespaces", list);
    planned(changed(spec, "/annotations", json!({ANNOTATION_SANDBOX: "s1"})))
}

#[test]
fn a_container_alone_gets_its_own_but_for_the_network() {
    let plan = planned(minimal()).unwrap();
    assert_eq!(guest_namespaces(&plan), [Pid, Ipc, Uts, Mount, Cgroup]);
    assert_eq!(plan.host.network, NetworkNamespace::New);
    assert_eq!(plan.host.pid, PidNamespace::New);
    assert!(plan.warnings.is_empty());
}

#[test]
fn a_container_of_a_pod_shares_what_the_guest_has() {
    let plan = member(json!({"type": "pid"})).unwrap();
    assert_eq!(guest_namespaces(&plan), [Pid, Mount, Cgroup]);
    assert_eq!(
        plan.host.network,
        NetworkNamespace::Path("/proc/77/ns/net".into())
    );
}

#[test]
fn another_containers_pid_namespace_is_found_by_its_pid() {
    let plan = member(json!({"type": "pid", "path": "/proc/77/ns/pid"})).unwrap();
    assert_eq!(plan.host.pid, PidNamespace::OfProcess(77));
    assert_eq!(guest_namespaces(&plan), [Mount, Cgroup]);
    for path in [
        "/proc/x/ns/pid",
        "/proc/77/ns/net",
        "/run/pid",
        "/proc/77/ns/pid/x",
    ] {
        let plan = member(json!({"type": "pid", "path": path}));
        assert_eq!(unsupported(plan), "linux.namespaces[pid].path");
    }
}

#[test]
fn without_a_sandbox_there_is_nobody_to_share_with() {
    let other = json!([{"type": "mount"}, {"type": "ipc", "path": "/proc/9/ns/ipc"}]);
    assert_eq!(unsupported(of(other)), "linux.namespaces[ipc].path");
}

#[test]
fn host_namespaces_are_those_of_the_guest_with_a_warning_for_the_network() {
    let plan = of(json!([{"type": "mount"}])).unwrap();
    assert_eq!(guest_namespaces(&plan), [Mount, Cgroup]);
    assert_eq!(plan.host.network, NetworkNamespace::Host);
    assert_eq!(plan.host.pid, PidNamespace::Host);
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn a_host_name_needs_a_uts_namespace_and_gets_one_unless_it_is_shared() {
    let named = |spec| planned(changed(spec, "/hostname", json!("box"))).unwrap();
    let host_uts = changed(
        minimal(),
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "network"}]),
    );
    let plan = named(host_uts);
    assert_eq!(plan.guest.hostname().as_deref(), Some("box"));
    assert!(guest_namespaces(&plan).contains(&Uts));

    let shared = json!([{"type": "mount"}, {"type": "network"}, {"type": "uts", "path": "/proc/7/ns/uts"}]);
    let shared = changed(minimal(), "/linux/namespaces", shared);
    let plan = named(changed(shared, "/annotations", json!({ANNOTATION_SANDBOX: "s1"})));
    assert_eq!(plan.guest.hostname(), &None);
    assert_eq!(plan.warnings.len(), 1);
    assert_eq!(invalid(with("/hostname", json!("x".repeat(65)))), "hostname");
}

#[test]
fn user_namespaces_are_unsupported() {
    let user = json!([{"type": "mount"}, {"type": "user"}]);
    assert_eq!(unsupported(of(user)), "linux.namespaces[user]");
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    assert_eq!(
        unsupported(with("/linux/uidMappings", map)),
        "linux.namespaces[user]"
    );
}

#[test]
fn the_rest_of_the_rules() {
    assert_eq!(unsupported(of(json!([]))), "linux.namespaces[mount]");
    let twice = json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]);
    assert_eq!(invalid(of(twice)), "linux.namespaces[2]");
    let relative = json!([{"type": "mount"}, {"type": "network", "path": "ns/net"}]);
    assert_eq!(invalid(of(relative)), "linux.namespaces[net].path");
    assert_eq!(
        invalid(with("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}))),
        "linux.timeOffsets"
    );
    let time = changed(
        minimal(),
        "/linux/namespaces",
        json!([{"type": "mount"}, {"type": "time"}]),
    );
    let plan = planned(changed(
        time,
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 1}}),
    ))
    .unwrap();
    assert!(guest_namespaces(&plan).contains(&Time));
}
