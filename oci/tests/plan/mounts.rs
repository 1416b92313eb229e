use crate::*;

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({"type": "bind", "source": source, "destination": destination, "options": options})
}

#[test]
fn a_bind_is_shared_by_the_host_and_bound_by_the_guest() {
    let plan = with_mount(bind("/srv//data/", "/data", &["rbind", "ro", "nosuid", "rslave"])).unwrap();
    let host = &plan.host.binds[0];
    assert_eq!(host.source, PathBuf::from("/srv/data"));
    assert!(host.read_only && host.recursive && !host.recursive_read_only && host.follows_host);
    let guest = guest_mount(&plan);
    assert_eq!(
        guest.source().as_deref(),
        Some(Path::new("/run/share/c1/mounts/0"))
    );
    assert_eq!(
        guest.options().as_deref().unwrap(),
        ["rbind", "ro", "nosuid", "rslave"]
    );
}

#[test]
fn binds_are_counted_apart_from_the_guests_mounts() {
    let list = json!([
        bind("/a", "/a", &["bind"]),
        {"type": "tmpfs", "source": "tmpfs", "destination": "/run", "options": ["size=1m"]},
        {"type": "none", "source": "/b", "destination": "/b", "options": ["rbind"]}
    ]);
    let plan = with("/mounts", list).unwrap();
    let indices: Vec<_> = plan.host.binds.iter().map(|bind| bind.index).collect();
    assert_eq!(indices, [0, 1]);
    let guest = plan.guest.mounts().as_ref().unwrap();
    assert_eq!(guest.len(), 3);
    assert_eq!(
        guest[2].source().as_deref(),
        Some(Path::new("/run/share/c1/mounts/1"))
    );
    assert_eq!(guest[2].typ().as_deref(), Some("bind"));
}

#[test]
fn a_bind_without_the_option_gets_it() {
    let plan = with_mount(bind("/a", "/a", &["ro"])).unwrap();
    assert_eq!(guest_mount(&plan).options().as_deref().unwrap(), ["ro", "bind"]);
    assert!(!plan.host.binds[0].recursive);
}

#[test]
fn recursive_read_only_is_read_only_too() {
    let plan = with_mount(bind("/a", "/a", &["rbind", "rro"])).unwrap();
    assert!(plan.host.binds[0].read_only && plan.host.binds[0].recursive_read_only);
}

#[test]
fn data_of_a_bind_is_ignored_with_a_warning() {
    let plan = with_mount(bind("/a", "/a", &["rbind", "size=5"])).unwrap();
    assert_eq!(plan.warnings.len(), 1);
    assert_eq!(guest_mount(&plan).options().as_deref().unwrap(), ["rbind"]);
}

#[test]
fn the_pods_shared_memory_stays_in_the_guest() {
    let cri = "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/s1/shm";
    for source in [cri, "/dev/shm"] {
        let plan = with_mount(bind(source, "/dev/shm", &["rbind", "rprivate", "rw"])).unwrap();
        assert!(plan.host.binds.is_empty());
        assert_eq!(
            guest_mount(&plan).source().as_deref(),
            Some(Path::new("/dev/shm"))
        );
    }
    let own = with_mount(bind("/srv/sandboxes/x", "/dev/shm", &["rbind"])).unwrap();
    assert_eq!(own.host.binds.len(), 1);
}

#[test]
fn the_hosts_message_queues_become_the_guests() {
    let plan = with_mount(bind("/dev/mqueue", "/dev/mqueue", &["rbind", "nosuid"])).unwrap();
    assert!(plan.host.binds.is_empty());
    assert_eq!(guest_mount(&plan).typ().as_deref(), Some("mqueue"));
    assert_eq!(guest_mount(&plan).options().as_deref().unwrap(), ["nosuid"]);
}

#[test]
fn the_guest_has_cgroup_v2_under_either_name() {
    for typ in ["cgroup", "cgroup2"] {
        let cgroup =
            json!({"type": typ, "source": "cgroup", "destination": "/sys/fs/cgroup", "options": ["ro"]});
        let plan = with_mount(cgroup).unwrap();
        assert_eq!(guest_mount(&plan).typ().as_deref(), Some("cgroup"));
    }
}

#[test]
fn destinations_are_checked() {
    for destination in ["data", "", "/a/../b", "/", "/proc/self", "/proc/sys", "/proc"] {
        let field = invalid(with_mount(bind("/a", destination, &["bind"])));
        assert_eq!(field, "mounts[0].destination", "{destination:?}");
    }
    assert!(with_mount(bind("/a", "/proc/cpuinfo", &["bind"])).is_ok());
    assert!(with_mount(bind("/a", "/proc/sys/kernel/ns_last_pid", &["bind"])).is_ok());
}

#[test]
fn sources_of_binds_are_checked() {
    for source in ["data", "", "/a/../b"] {
        assert_eq!(
            invalid(with_mount(bind(source, "/a", &["bind"]))),
            "mounts[0].source"
        );
    }
}

#[test]
fn what_a_guest_cannot_mount_is_unsupported() {
    let mount = |typ: &str, options: &[&str]| {
        with_mount(json!({"type": typ, "source": "x", "destination": "/x", "options": options}))
    };
    for typ in ["nfs", "ext4", "overlay", "", "none"] {
        assert_eq!(unsupported(mount(typ, &[])), "mounts[0].type", "{typ:?}");
    }
    assert_eq!(unsupported(mount("tmpfs", &["tmpcopyup"])), "mounts[0].options");
    assert_eq!(
        unsupported(with_mount(bind("/a", "/a", &["rbind", "rro", "rslave"]))),
        "mounts[0].options"
    );
    assert_eq!(
        unsupported(with_mount(bind("/a", "/a", &["rbind", "rshared"]))),
        "mounts[0].options"
    );
    assert_eq!(
        unsupported(with_mount(bind("/a", "/a", &["rbind", "ridmap"]))),
        "mounts[0]"
    );
    let mapped = json!([{"containerID": 0, "hostID": 1, "size": 1}]);
    let mount = changed(bind("/a", "/a", &["bind"]), "/uidMappings", mapped);
    assert_eq!(unsupported(with_mount(mount)), "mounts[0]");
}

#[test]
fn their_number_is_bounded() {
    let list = vec![bind("/a", "/a", &["bind"]); 4097];
    assert_eq!(invalid(with("/mounts", json!(list))), "mounts");
}
