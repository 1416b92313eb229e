//! Whatever a spec says, translating it ends, and a plan that comes out keeps the promises the host relies on.
//! `PROPTEST_CASES=1000000 cargo test --release -p bulkhead-oci --test properties` is the nightly fuzzing.
#![expect(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Component, Path};
use std::sync::LazyLock;

use bulkhead_oci::runtime::Spec;
use bulkhead_oci::sizing::{Size, size};
use bulkhead_oci::{
    ContainerPlan, GuestPaths, parse_process, parse_resources, plan, plan_process, plan_resources, read_spec,
    validate_id,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Real specs, to start from.
static SEEDS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let dirs = fs::read_dir(root)
        .expect("golden")
        .map(|entry| entry.expect("entry").path());
    let specs = dirs.filter_map(|dir| fs::read(dir.join("config.json")).ok());
    specs
        .map(|json| serde_json::from_slice(&json).expect("JSON"))
        .collect()
});

/// Values at the edges of what fields take.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just(-2), Just(-1), Just(0), Just(1)].prop_map(|n: i64| n.into()),
        ".{0,12}".prop_map(Value::from),
        "(/|\\.\\.|\\.|:|a|bind|proc|\0|=|-|,|slice){0,6}".prop_map(Value::from),
        prop_oneof![
            Just("/proc/1/ns/pid"),
            Just("rbind"),
            Just("/dev/shm"),
            Just("sandbox"),
            Just("-.slice:a:b"),
            Just("RLIMIT_CPU"),
            Just("SCMP_ACT_NOTIFY"),
            Just("user"),
            Just("time"),
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `value` at the place that `at` picks among all of the spec's.
fn mutate(spec: &mut Value, at: Index, value: Value) {
    let pointers = pointers(spec);
    if let Some(place) = spec.pointer_mut(&pointers[at.index(pointers.len())]) {
        *place = value;
    }
}

fn pointers(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let below = |key: &str, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        pointers(value)
            .into_iter()
            .map(move |pointer| format!("/{key}{pointer}"))
            .collect::<Vec<_>>()
    };
    match value {
        Value::Object(map) => found.extend(map.iter().flat_map(|(key, value)| below(key, value))),
        Value::Array(list) => found.extend(
            list.iter()
                .enumerate()
                .flat_map(|(n, v)| below(&n.to_string(), v)),
        ),
        _ => {}
    }
    found
}

fn planned(spec: &Spec) -> Option<ContainerPlan> {
    let guest = GuestPaths {
        container: "/run/share/c".into(),
    };
    let default = Size {
        vcpus: 1,
        memory_mib: 512,
    };
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Ok(size) = size(resources, spec.annotations().as_ref(), default) {
        assert_eq!(size, Size::class(size.vcpus.into(), size.memory_mib.into()));
    }
    plan(spec, Path::new("/bundle"), "c", &guest).ok()
}

fn is_plain(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
}

/// What the host's side takes for granted.
fn check(plan: &ContainerPlan) {
    let host = &plan.host;
    assert!(
        host.rootfs.is_absolute() && is_plain(&host.rootfs),
        "{:?}",
        host.rootfs
    );
    assert!(
        host.cgroups_path.is_relative() && is_plain(&host.cgroups_path),
        "{:?}",
        host.cgroups_path
    );
    for (n, bind) in host.binds.iter().enumerate() {
        assert_eq!(bind.index, n);
        assert!(bind.source.is_absolute() && is_plain(&bind.source), "{bind:?}");
        assert!(
            bind.destination.is_absolute() && is_plain(&bind.destination),
            "{bind:?}"
        );
    }
    let guest = &plan.guest;
    assert!(guest.hooks().is_none());
    let linux = guest.linux().as_ref().expect("linux");
    assert!(
        linux
            .namespaces()
            .iter()
            .flatten()
            .all(|namespace| namespace.path().is_none())
    );
    for mount in guest.mounts().iter().flatten() {
        if mount.typ().as_deref() == Some("bind") {
            let source = mount.source().as_ref().expect("source");
            assert!(
                source.starts_with("/run/share/c/mounts") || source == Path::new("/dev/shm"),
                "{mount:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn changed_specs_are_refused_or_have_sound_plans(
        seed in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), value()), 1..4),
    ) {
        let mut spec = SEEDS[seed.index(SEEDS.len())].clone();
        for (at, value) in changes {
            mutate(&mut spec, at, value);
        }
        if let Ok(spec) = serde_json::from_value::<Spec>(spec)
            && let Some(plan) = planned(&spec)
        {
            check(&plan);
        }
    }

    #[test]
    fn changed_processes_and_resources_do_not_panic(at in any::<Index>(), value in value()) {
        let mut spec = SEEDS[0].clone();
        mutate(&mut spec["process"], at, value.clone());
        mutate(&mut spec["linux"]["resources"], at, value);
        if let Ok(process) = parse_process(spec["process"].to_string().as_bytes()) {
            let _verdict = plan_process(&process);
        }
        if let Ok(resources) = parse_resources(spec["linux"]["resources"].to_string().as_bytes()) {
            let _verdict = plan_resources(&resources);
        }
    }

    #[test]
    fn changed_bytes_do_not_panic(
        seed in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let mut json = SEEDS[seed.index(SEEDS.len())].to_string().into_bytes();
        for (at, byte) in changes {
            let at = at.index(json.len());
            json[at] = byte;
        }
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("config.json");
        fs::write(&path, json).expect("written");
        if let Ok(spec) = read_spec(&path)
            && let Some(plan) = planned(&spec)
        {
            check(&plan);
        }
    }

    #[test]
    fn an_id_is_always_one_harmless_path_component(id in ".{0,80}") {
        if validate_id(&id).is_ok() {
            let path = Path::new(&id);
            prop_assert!(is_plain(path) && path.components().count() == 1);
        }
    }

    #[test]
    fn cgroup_paths_stay_below_the_mount(path in "(/|\\.\\.|\\.|:|a|b|-|slice|\\.slice){0,8}") {
        let mut spec = json!({
            "ociVersion": "1.0.0", "root": {"path": "rootfs"},
            "process": {"user": {}, "cwd": "/", "args": ["x"]},
            "linux": {"namespaces": [{"type": "mount"}]}
        });
        spec["linux"]["cgroupsPath"] = path.into();
        let spec: Spec = serde_json::from_value(spec).expect("a spec");
        if let Some(plan) = planned(&spec) {
            check(&plan);
        }
    }
}
