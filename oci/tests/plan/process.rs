use crate::*;

#[test]
fn each_rule_names_its_field() {
    for (pointer, value, field) in [
        ("/process", Value::Null, "process"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", Value::Null, "process.args"),
        ("/process/args", json!(["a", "b\0"]), "process.args[1]"),
        ("/process/env", json!(["A=1", "B"]), "process.env[1]"),
        ("/process/env", json!(["=1"]), "process.env[0]"),
        ("/process/env", json!(["A=\0"]), "process.env[0]"),
        ("/process/cwd", json!("tmp"), "process.cwd"),
        ("/process/cwd", json!("/a/../.."), "process.cwd"),
        ("/process/user/uid", json!(u32::MAX), "process.user.uid"),
        (
            "/process/user/additionalGids",
            json!([1, u32::MAX]),
            "process.user.additionalGids[1]",
        ),
        ("/process/user/umask", json!(0o1000), "process.user.umask"),
        (
            "/process/consoleSize",
            json!({"height": 70_000, "width": 1}),
            "process.consoleSize",
        ),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 8}),
            "process.ioPriority.priority",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO"}),
            "process.scheduler.priority",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            "process.scheduler.nice",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_RR", "priority": 1, "runtime": 5}),
            "process.scheduler",
        ),
    ] {
        assert_eq!(invalid(with(pointer, value.clone())), field, "{pointer} {value}");
    }
}

#[test]
fn a_soft_limit_above_the_hard_one_and_a_double_limit_are_refused() {
    let nofile = |soft, hard| json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard});
    let rlimits = |list: Value| with("/process/rlimits", list);
    assert!(rlimits(json!([nofile(1, 1)])).is_ok());
    assert_eq!(invalid(rlimits(json!([nofile(2, 1)]))), "process.rlimits[0]");
    assert_eq!(
        invalid(rlimits(json!([nofile(1, 1), nofile(1, 2)]))),
        "process.rlimits[1]"
    );
}

#[test]
fn too_many_strings_are_refused() {
    let many = vec!["A=1"; 100_000];
    assert_eq!(invalid(with("/process/env", json!(many))), "process.env");
    assert_eq!(invalid(with("/process/args", json!(many))), "process.args");
}

#[test]
fn security_labels_are_left_out_with_a_warning() {
    let plan = with("/process/apparmorProfile", json!("cri-containerd.apparmor.d")).unwrap();
    assert_eq!(plan.guest.process().as_ref().unwrap().apparmor_profile(), &None);
    assert_eq!(plan.warnings.len(), 1);
    let unconfined = with("/process/apparmorProfile", json!("unconfined")).unwrap();
    assert!(unconfined.warnings.is_empty());
}

#[test]
fn what_names_host_cpus_is_unsupported() {
    let affinity = with("/process/execCPUAffinity", json!({"initial": "0-3"}));
    assert_eq!(unsupported(affinity), "process.execCPUAffinity");
    assert!(with("/process/execCPUAffinity", json!({})).is_ok());
}

#[test]
fn an_exec_has_of_its_container_what_it_does_not_say() {
    let process = |more: Value| {
        let mut process = json!({"args": ["a"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        for (key, value) in more.as_object().unwrap() {
            process[key] = value.clone();
        }
        serde_json::from_value::<bulkhead_oci::runtime::Process>(process).unwrap()
    };
    let init = process(json!({
        "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"]},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 7, "hard": 7}],
        "noNewPrivileges": true,
    }));
    let mut silent = process(json!({}));
    bulkhead_oci::inherit(&mut silent, &init);
    assert_eq!(silent.capabilities(), init.capabilities());
    assert_eq!(silent.io_priority(), init.io_priority());
    assert_eq!((silent.rlimits(), silent.no_new_privileges()), (&None, None));

    let own =
        process(json!({"capabilities": {}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}));
    let mut same = own.clone();
    bulkhead_oci::inherit(&mut same, &init);
    assert_eq!(same, own);
}
