use crate::*;

fn of(resources: Value) -> Result<ContainerPlan, PlanError> {
    with("/linux/resources", resources)
}

#[test]
fn each_rule_names_its_field() {
    for (resources, field) in [
        (json!({"memory": {"limit": -2}}), "memory.limit"),
        (json!({"memory": {"limit": 8, "swap": 4}}), "memory.swap"),
        (json!({"memory": {"swap": 4}}), "memory.swap"),
        (json!({"memory": {"swappiness": 101}}), "memory.swappiness"),
        (json!({"cpu": {"shares": 1}}), "cpu.shares"),
        (json!({"cpu": {"quota": 999}}), "cpu.quota"),
        (json!({"cpu": {"quota": -5}}), "cpu.quota"),
        (json!({"cpu": {"period": 999}}), "cpu.period"),
        (json!({"cpu": {"idle": 2}}), "cpu.idle"),
        (json!({"cpu": {"cpus": "0;1"}}), "cpu.cpus"),
        (json!({"blockIO": {"weight": 5}}), "blockIO.weight"),
        (
            json!({"blockIO": {"throttleReadIOPSDevice": [{"major": -1, "minor": 0, "rate": 1}]}}),
            "blockIO.throttleReadIOPSDevice[0]",
        ),
        (
            json!({"devices": [{"allow": true, "access": "rwx"}]}),
            "devices[0].access",
        ),
        (json!({"devices": [{"allow": true, "major": -2}]}), "devices[0]"),
        (json!({"unified": {"../x.y": "1"}}), "unified"),
        (json!({"unified": {"cgroup/procs": "1"}}), "unified"),
    ] {
        let text = resources.to_string();
        assert_eq!(
            invalid(of(resources)),
            format!("linux.resources.{field}"),
            "{text}"
        );
    }
    for (resources, field) in [
        (json!({"cpu": {"realtimeRuntime": 1}}), "cpu.realtimeRuntime"),
        (
            json!({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10}]}}),
            "blockIO.weightDevice",
        ),
        (json!({"network": {"classID": 1}}), "network"),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 1}}}), "rdma"),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}),
            "hugepageLimits[0]",
        ),
    ] {
        let text = resources.to_string();
        assert_eq!(
            unsupported(of(resources)),
            format!("linux.resources.{field}"),
            "{text}"
        );
    }
}

#[test]
fn minus_one_is_unlimited_and_zero_is_unset() {
    assert!(
        of(json!({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}})).is_ok()
    );
    assert!(of(json!({"memory": {"limit": 0}, "cpu": {"quota": 0, "period": 0, "shares": 0}})).is_ok());
}

#[test]
fn limits_hold_on_both_sides_and_cpu_sets_on_the_host_alone() {
    let plan = of(json!({
        "memory": {"limit": 1_048_576}, "cpu": {"quota": 50_000, "cpus": "0-1"},
        "devices": [{"allow": false, "access": "rwm"}],
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}], "unified": {"memory.high": "1000000"}
    }))
    .unwrap();
    let host = plan.host.resources.as_ref().unwrap();
    let guest = plan.guest.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert_eq!(host.memory(), guest.memory());
    assert_eq!(host.cpu().as_ref().unwrap().cpus().as_deref(), Some("0-1"));
    assert_eq!(guest.cpu().as_ref().unwrap().cpus(), &None);
    assert_eq!(guest.cpu().as_ref().unwrap().quota(), Some(50_000));
    assert!(host.devices().is_none() && guest.devices().is_some());
    assert!(guest.hugepage_limits().is_none() && guest.unified().is_some());
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn zero_leaves_a_limit_unset() {
    let plan = of(json!({
        "memory": {"limit": 1_048_576, "swap": 0, "reservation": 0},
        "cpu": {"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0}, "pids": {"limit": 0}
    }))
    .unwrap();
    let guest = plan.guest.linux().as_ref().unwrap().resources().as_ref().unwrap();
    for resources in [guest, plan.host.resources.as_ref().unwrap()] {
        let memory = resources.memory().unwrap();
        assert_eq!(
            (memory.limit(), memory.swap(), memory.reservation()),
            (Some(1_048_576), None, None)
        );
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.shares(), cpu.quota(), cpu.period(), cpu.realtime_runtime()),
            (None, None, None, None)
        );
        assert!(resources.pids().is_none());
    }
}

#[test]
fn block_io_is_limited_on_the_host_for_a_container_that_has_the_vm_to_itself() {
    let member = |block_io: Value| {
        let spec = changed(minimal(), "/linux/resources", json!({"blockIO": block_io}));
        planned(changed(spec, "/annotations", json!({ANNOTATION_SANDBOX: "s1"})))
    };
    let throttle = json!({"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]});
    let plan = of(json!({"blockIO": throttle})).unwrap();
    let host = plan.host.resources.as_ref().unwrap().block_io().as_ref().unwrap();
    assert_eq!(host.weight(), Some(100));
    assert_eq!(host.throttle_read_bps_device().as_ref().unwrap()[0].rate(), 1);
    let guest = plan.guest.linux().as_ref().unwrap().resources().as_ref().unwrap();
    assert!(guest.block_io().is_none() && plan.warnings.is_empty());

    assert_eq!(
        unsupported(member(throttle)),
        "linux.resources.blockIO.throttleReadBpsDevice"
    );
    let plan = member(json!({"weight": 100})).unwrap();
    assert!(plan.host.resources.as_ref().unwrap().block_io().is_none());
    assert_eq!(plan.warnings.len(), 1);
    // What asks for nothing is nothing.
    let plan = member(json!({"weight": 0, "throttleReadBpsDevice": []})).unwrap();
    assert!(plan.host.resources.as_ref().unwrap().block_io().is_none() && plan.warnings.is_empty());
}
