//! Real specs, captured from containerd's clients by `golden/capture`, against the plans they had when a person
//! last looked at them. `UPDATE_GOLDEN=1 cargo test -p bulkhead-oci --test golden` writes the plans anew, for
//! `git diff` to show what a change does to real containers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_oci::group::group;
use bulkhead_oci::runtime::Spec;
use bulkhead_oci::sizing::{Size, size};
use bulkhead_oci::{BindMount, ContainerPlan, GuestPaths, plan, read_spec};
use serde_json::{Value, json};

/// The configuration's default, here.
const DEFAULT_SIZE: Size = Size {
    vcpus: 1,
    memory_mib: 512,
};

#[test]
fn real_specs_have_the_plans_they_had() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let dirs = golden_dirs();
    assert!(dirs.len() > 40, "only {} captured specs were found", dirs.len());
    let mut different = Vec::new();
    for dir in dirs {
        let plan = serde_json::to_string_pretty(&describe(&dir)).unwrap() + "\n";
        let file = dir.join("plan.json");
        if update {
            fs::write(&file, plan).unwrap();
        } else if fs::read_to_string(&file).ok().as_deref() != Some(plan.as_str()) {
            different.push((file, plan));
        }
    }
    let Some((file, plan)) = different.first() else {
        return;
    };
    let names: Vec<_> = different
        .iter()
        .map(|(file, _)| file.display().to_string())
        .collect();
    panic!(
        "other plans than in {names:#?}; {} is now:\n{plan}",
        file.display()
    );
}

fn golden_dirs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut dirs: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs
}

/// What becomes of a spec: the host's part, and how the guest's spec differs from the one it was made of.
fn describe(dir: &Path) -> Value {
    let spec = read_spec(&dir.join("config.json")).unwrap();
    let annotations = spec.annotations().as_ref();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let group = group(annotations, "id").unwrap();
    let guest = GuestPaths {
        container: "/run/share/id".into(),
    };
    match plan(&spec, Path::new("/bundle"), "id", &guest) {
        Ok(plan) => json!({
            "group": format!("{group:?}"),
            "size": format!("{:?}", size(resources, annotations, DEFAULT_SIZE).unwrap()),
            "host": host(&plan),
            "guest": guest_changes(&spec, &plan.guest),
            "warnings": plan.warnings,
        }),
        Err(error) => json!({"group": format!("{group:?}"), "error": error.to_string()}),
    }
}

fn host(plan: &ContainerPlan) -> Value {
    let host = &plan.host;
    let mut all = json!({
        "rootfs": host.rootfs,
        "rootfs_read_only": host.rootfs_read_only,
        "binds": host.binds.iter().map(bind).collect::<Vec<_>>(),
        "network": format!("{:?}", host.network),
        "pid": format!("{:?}", host.pid),
        "cgroups_path": host.cgroups_path,
        "resources": host.resources,
        "hooks": {
            "create_runtime": host.hooks.create_runtime,
            "poststart": host.hooks.poststart,
            "poststop": host.hooks.poststop,
        },
    });
    if !host.devices.is_empty() {
        all["devices"] = host.devices.iter().map(device).collect();
    }
    all
}

fn device(device: &bulkhead_oci::BlockDevice) -> Value {
    let (path, access) = (device.path.display(), &device.access);
    json!(format!(
        "b {}:{} at {path} ({access})",
        device.major, device.minor
    ))
}

fn bind(bind: &BindMount) -> String {
    let mut flags = vec![if bind.read_only { "ro" } else { "rw" }];
    flags.extend(bind.recursive.then_some("recursive"));
    flags.extend(bind.recursive_read_only.then_some("recursively ro"));
    let (index, source, flags) = (bind.index, bind.source.display(), flags.join(", "));
    format!("{index}: {source} on {} ({flags})", bind.destination.display())
}

/// Every leaf and list of the two specs that is not the same, by its JSON pointer.
fn guest_changes(before: &Spec, after: &Spec) -> BTreeMap<String, String> {
    let mut changes = BTreeMap::new();
    let before = serde_json::to_value(before).unwrap();
    let after = serde_json::to_value(after).unwrap();
    compare(String::new(), &before, &after, &mut changes);
    changes
}

fn compare(at: String, before: &Value, after: &Value, changes: &mut BTreeMap<String, String>) {
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let (old, new) = (old.get(key), new.get(key));
                compare(
                    format!("{at}/{key}"),
                    old.unwrap_or(&Value::Null),
                    new.unwrap_or(&Value::Null),
                    changes,
                );
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (n, (old, new)) in old.iter().zip(new).enumerate() {
                compare(format!("{at}/{n}"), old, new, changes);
            }
        }
        _ if is_same(&at, before, after) => {}
        _ => {
            changes.insert(at, format!("{} -> {}", shortened(before), shortened(after)));
        }
    }
}

/// A list of a privileged container's devices is long, and the warning tells their number.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 400;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// oci-spec keeps capabilities in hash sets, whose order is nobody's.
fn is_same(at: &str, before: &Value, after: &Value) -> bool {
    before == after || at.starts_with("/process/capabilities/")
}
