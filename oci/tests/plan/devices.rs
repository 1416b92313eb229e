use crate::*;

fn device(path: &str, typ: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": typ, "major": major, "minor": minor})
}

#[test]
fn the_guests_own_devices_are_kept() {
    let list = json!([
        device("/dev/fuse", "c", 10, 229),
        device("/dev/my-null", "c", 1, 3)
    ]);
    let plan = with("/linux/devices", list).unwrap();
    assert_eq!(
        plan.guest
            .linux()
            .as_ref()
            .unwrap()
            .devices()
            .as_ref()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn a_character_device_of_the_host_is_unsupported() {
    let card = json!([device("/dev/snd", "c", 116, 2)]);
    assert_eq!(unsupported(with("/linux/devices", card)), "linux.devices[0]");
}

/// The plan of a container with the block device 7:3 and these rules.
fn with_disk(rules: Value) -> bulkhead_oci::ContainerPlan {
    let spec = changed(
        minimal(),
        "/linux/devices",
        json!([device("/dev/xvda", "b", 7, 3)]),
    );
    planned(changed(spec, "/linux/resources", json!({ "devices": rules }))).expect("a plan")
}

#[test]
fn a_block_device_of_the_host_is_plugged_in_and_its_numbers_stay_behind() {
    let plan = with_disk(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": true, "type": "b", "major": 7, "minor": 3, "access": "rwm"},
    ]));
    let [disk] = &plan.host.devices[..] else {
        panic!("{:?}", plan.host.devices)
    };
    assert_eq!(
        (disk.path.to_str(), disk.major, disk.minor),
        (Some("/dev/xvda"), 7, 3)
    );
    assert_eq!(disk.access, "rwm");
    let linux = plan.guest.linux().as_ref().unwrap();
    let node = &linux.devices().as_ref().unwrap()[0];
    assert_eq!((node.major(), node.minor()), (0, 0));
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    let numbers: Vec<_> = rules.iter().map(|rule| (rule.major(), rule.minor())).collect();
    assert_eq!(numbers, [(None, None), (Some(1), Some(3))]);
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn the_last_rule_about_a_block_device_decides() {
    let disk = |access: &str| json!({"allow": true, "type": "b", "major": 7, "minor": 3, "access": access});
    let no_writing = json!({"allow": false, "type": "b", "major": 7, "minor": -1, "access": "w"});
    let nothing = json!({"allow": false, "access": "rwm"});
    let other = json!({"allow": true, "type": "b", "major": 7, "minor": 4, "access": "rwm"});
    for (rules, access) in [
        (json!([disk("rm")]), "rm"),
        (json!([disk("rwm"), no_writing]), "rm"),
        (json!([no_writing, disk("rw")]), "rw"),
        (json!([disk("rwm"), nothing]), ""),
        (json!([other]), ""),
        (json!([]), ""),
    ] {
        assert_eq!(with_disk(rules.clone()).host.devices[0].access, access, "{rules}");
    }
}

#[test]
fn a_rule_for_a_block_device_that_is_not_listed_says_nothing_of_the_guests() {
    let rules = json!([{"allow": true, "type": "b", "major": 8, "access": "rwm"},
        {"allow": true, "type": "a", "major": 10, "minor": 229, "access": "rwm"}]);
    let plan = with("/linux/resources", json!({ "devices": rules })).unwrap();
    let linux = plan.guest.linux().as_ref().unwrap();
    let rules = linux.resources().as_ref().unwrap().devices().as_ref().unwrap();
    let kinds: Vec<_> = rules.iter().map(|rule| rule.typ().unwrap()).collect();
    let characters = bulkhead_oci::runtime::LinuxDeviceType::C;
    assert_eq!(kinds, [characters], "a rule for both kinds is left with one");
    assert!(plan.warnings[0].contains("b 8:*"), "{:?}", plan.warnings);
}

#[test]
fn numbers_of_a_block_device_are_bounded() {
    for (major, minor, field) in [(-1, 0, "major"), (4096, 0, "major"), (8, 1 << 20, "minor")] {
        let list = json!([device("/dev/sda", "b", major, minor)]);
        assert_eq!(
            invalid(with("/linux/devices", list)),
            format!("linux.devices[0].{field}")
        );
    }
}

#[test]
fn a_privileged_container_just_does_not_get_it() {
    let list = json!([device("/dev/sda", "b", 8, 0), device("/dev/null", "c", 1, 3)]);
    let spec = changed(minimal(), "/linux/devices", list);
    let spec = changed(
        spec,
        "/linux/resources",
        json!({"devices": [{"allow": true, "access": "rwm"}]}),
    );
    let plan = planned(spec).unwrap();
    assert_eq!(
        plan.guest
            .linux()
            .as_ref()
            .unwrap()
            .devices()
            .as_ref()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn paths_are_below_dev() {
    for path in ["/etc/null", "dev/null", "/dev/../null"] {
        let list = json!([device(path, "c", 1, 3)]);
        assert_eq!(invalid(with("/linux/devices", list)), "linux.devices[0].path");
    }
}
