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
fn a_device_of_the_host_is_unsupported() {
    let disk = json!([device("/dev/sda", "b", 8, 0)]);
    assert_eq!(unsupported(with("/linux/devices", disk)), "linux.devices[0]");
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
