use crate::*;

#[test]
fn hooks_run_on_the_host() {
    let hook = |path: &str| json!([{"path": path, "timeout": 5}]);
    let hooks = json!({
        "prestart": hook("/a"), "createRuntime": hook("/b"), "poststart": hook("/c"), "poststop": hook("/d")
    });
    let plan = with("/hooks", hooks).unwrap();
    let paths: Vec<_> = plan
        .host
        .hooks
        .create_runtime
        .iter()
        .map(|hook| hook.path().clone())
        .collect();
    assert_eq!(paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(plan.host.hooks.poststart.len(), 1);
    assert_eq!(plan.host.hooks.poststop.len(), 1);
    assert_eq!(plan.guest.hooks(), &None);
}

#[test]
fn hooks_of_the_containers_own_programs_run_in_the_guest() {
    let hooks = json!({"startContainer": [{"path": "/a", "timeout": 5}], "poststop": [{"path": "/b"}]});
    let plan = with("/hooks", hooks).unwrap();
    assert_eq!(
        serde_json::to_value(plan.guest.hooks()).unwrap(),
        json!({"startContainer": [{"path": "/a", "timeout": 5}]})
    );
    let none = with("/hooks", json!({"startContainer": []})).unwrap();
    assert_eq!(none.guest.hooks(), &None);
    let relative = json!({"startContainer": [{"path": "a"}]});
    assert_eq!(invalid(with("/hooks", relative)), "hooks.startContainer[0].path");
}

#[test]
fn hooks_of_the_host_on_the_containers_mounts_are_unsupported_unless_there_are_none() {
    let hooks = json!({"createContainer": [{"path": "/a"}]});
    assert_eq!(unsupported(with("/hooks", hooks)), "hooks.createContainer");
    assert!(with("/hooks", json!({"createContainer": []})).is_ok());
    assert_eq!(
        invalid(with("/hooks", json!({"poststop": [{"path": "a"}]}))),
        "hooks.poststop[0].path"
    );
    let never = json!({"poststop": [{"path": "/a", "timeout": 0}]});
    assert_eq!(invalid(with("/hooks", never)), "hooks.poststop[0].timeout");
}

#[test]
fn the_cgroup_is_the_spec_s_on_the_host_and_its_own_in_the_guest() {
    let plan = with("/linux/cgroupsPath", json!("system.slice:nerdctl:c1")).unwrap();
    assert_eq!(
        plan.host.cgroups_path,
        PathBuf::from("system.slice/nerdctl-c1.scope")
    );
    let guest = plan.guest.linux().as_ref().unwrap().cgroups_path();
    assert_eq!(guest.as_deref(), Some(Path::new("/c1")));
    assert_eq!(
        invalid(with("/linux/cgroupsPath", json!("/a/../b"))),
        "linux.cgroupsPath"
    );
}

#[test]
fn seccomp_is_the_guests_but_for_listeners() {
    let allow = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let plan = with("/linux/seccomp", allow).unwrap();
    assert!(plan.guest.linux().as_ref().unwrap().seccomp().is_some());
    let listener = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s"});
    assert_eq!(
        unsupported(with("/linux/seccomp", listener)),
        "linux.seccomp.listenerPath"
    );
    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}]});
    assert_eq!(
        unsupported(with("/linux/seccomp", notify)),
        "linux.seccomp.listenerPath"
    );
}

#[test]
fn what_has_no_meaning_in_a_vm_is_said_so() {
    for (pointer, value, field) in [
        ("/vm", json!({"kernel": {"path": "/k"}}), "vm"),
        ("/linux/netDevices", json!({"eth1": {}}), "linux.netDevices"),
        ("/linux/intelRdt", json!({"closID": "x"}), "linux.intelRdt"),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0"}),
            "linux.memoryPolicy",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["x"]}),
            "linux.personality.flags",
        ),
        (
            "/linux/rootfsPropagation",
            json!("rshared"),
            "linux.rootfsPropagation",
        ),
    ] {
        assert_eq!(unsupported(with(pointer, value)), field);
    }
    assert!(with("/linux/personality", json!({"domain": "LINUX32"})).is_ok());
    assert_eq!(
        with("/linux/mountLabel", json!("system_u:x"))
            .unwrap()
            .warnings
            .len(),
        1
    );
}

#[test]
fn masks_and_sysctls_are_checked_and_kept() {
    assert_eq!(
        invalid(with("/linux/maskedPaths", json!(["/a", "b"]))),
        "linux.maskedPaths[1]"
    );
    assert_eq!(
        invalid(with("/linux/readonlyPaths", json!(["/a/../b"]))),
        "linux.readonlyPaths[0]"
    );
    assert_eq!(
        invalid(with("/linux/sysctl", json!({"net..x": "1"}))),
        "linux.sysctl"
    );
    let plan = with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})).unwrap();
    assert_eq!(
        plan.guest
            .linux()
            .as_ref()
            .unwrap()
            .sysctl()
            .as_ref()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn bad_grouping_annotations_are_refused() {
    let plan = with("/annotations", json!({ANNOTATION_SANDBOX: "../../x"}));
    assert_eq!(invalid(plan), "annotations");
}

#[test]
fn propagation_of_the_rootfs_is_said_in_one_word() {
    for (asked, given) in [
        ("rslave", Some("slave")),
        ("rprivate", Some("private")),
        ("", None),
    ] {
        let plan = with("/linux/rootfsPropagation", json!(asked)).unwrap();
        assert_eq!(
            plan.guest
                .linux()
                .as_ref()
                .unwrap()
                .rootfs_propagation()
                .as_deref(),
            given
        );
    }
    assert_eq!(
        invalid(with("/linux/rootfsPropagation", json!("sideways"))),
        "linux.rootfsPropagation"
    );
}

#[test]
fn only_known_annotations_of_ours_are_taken() {
    assert!(
        with(
            "/annotations",
            json!({"io.bulkhead.vcpus": "2", "com.example.x": "y"})
        )
        .is_ok()
    );
    let misspelt = with("/annotations", json!({"io.bulkhead.vcpu": "2"}));
    assert_eq!(invalid(misspelt), "annotations[\"io.bulkhead.vcpu\"]");
}
