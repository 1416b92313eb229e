//! Bundles and ids that no runtime should accept: refused with words, at once, and nothing is left.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_tests::deadline;
use bulkhead_tests::shim::Shim;
use bulkhead_tests::{Case, Daemon, case};
use serde_json::{Value, json};
use ttrpc::Code;

pub const CASES: &[Case] = &[
    case("config_is_missing", |daemon| refuse_file(daemon, |_| {})).vm_only(),
    case("config_is_empty", |daemon| {
        refuse_file(daemon, |path| fs::write(path, "").unwrap())
    })
    .vm_only(),
    case("config_is_not_json", |daemon| {
        refuse_file(daemon, |path| fs::write(path, "{\"ociVersion\"").unwrap())
    })
    .vm_only(),
    case("config_is_not_utf8", |daemon| {
        refuse_file(daemon, |path| fs::write(path, b"{\"a\":\"\xff\"}").unwrap())
    })
    .vm_only(),
    case("config_of_100_mib", config_of_100_mib).vm_only(),
    case("config_deeply_nested", config_deeply_nested).vm_only(),
    case("config_is_a_directory", |daemon| {
        refuse_file(daemon, |path| fs::create_dir(path).unwrap())
    })
    .vm_only(),
    case("wrong_types", wrong_types).vm_only(),
    case("args_are_empty", |daemon| {
        refuse(daemon, "/process/args", json!([]))
    })
    .vm_only(),
    case("cwd_is_relative", |daemon| {
        refuse(daemon, "/process/cwd", json!("tmp"))
    })
    .vm_only(),
    case("env_without_a_name", |daemon| {
        refuse(daemon, "/process/env", json!(["=x"]))
    })
    .vm_only(),
    case("unknown_rlimit", unknown_rlimit).vm_only(),
    case("relative_mount_destination", relative_mount_destination).vm_only(),
    case("root_path_climbs_out", |daemon| {
        refuse(daemon, "/root/path", json!("../../../.."))
    })
    .vm_only(),
    case("bad_ids", bad_ids).vm_only(),
    case("delete_without_anything", delete_without_anything).vm_only(),
];

/// A tenth of a second is the aim, on an idle machine. This is less than any VM takes to boot on a busy one.
const PROMPT: Duration = Duration::from_secs(10);

/// A spec that is right, and small.
fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "args": ["true"], "cwd": "/", "env": ["A=b"], "user": { "uid": 0, "gid": 0 } },
        "root": { "path": "rootfs" },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }] },
    })
}

/// Puts a `config.json` into a bundle, and sees Create refuse it.
fn refuse_file(daemon: &Daemon, write: impl FnOnce(&Path)) {
    let id = daemon.new_id("bad");
    let bundle = Shim::bundle(daemon, &id);
    write(&bundle.join("config.json"));
    let shim = Shim::start(daemon, &id, &bundle);
    let begin = Instant::now();
    let refusal = shim.create().expect_err("Create");
    let took = begin.elapsed();
    let deleted = shim.clean_up();
    assert_eq!(refusal.code, Code::INVALID_ARGUMENT, "{refusal:?}");
    assert!(
        !refusal.message.is_empty() && !refusal.message.contains('\n'),
        "{refusal:?}"
    );
    assert!(took < deadline::scaled(PROMPT), "refused after {took:?}");
    assert_eq!(deleted.expect_err("Delete").code, Code::NOT_FOUND);
}

fn refuse_spec(daemon: &Daemon, spec: &Value) {
    refuse_file(daemon, |path| {
        fs::write(path, serde_json::to_vec(spec).unwrap()).unwrap()
    });
}

fn refuse(daemon: &Daemon, place: &str, value: Value) {
    let mut spec = spec();
    *spec.pointer_mut(place).expect("a place in the spec") = value;
    refuse_spec(daemon, &spec);
}

fn config_of_100_mib(daemon: &Daemon) {
    refuse_file(daemon, |path| {
        let mut spec = serde_json::to_vec(&spec()).unwrap();
        spec.resize(100 << 20, b' ');
        fs::write(path, spec).unwrap();
    });
}

fn config_deeply_nested(daemon: &Daemon) {
    let deep = format!(
        "{{\"annotations\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    refuse_file(daemon, |path| fs::write(path, deep).unwrap());
}

fn wrong_types(daemon: &Daemon) {
    refuse(daemon, "/process", json!(7));
    refuse(daemon, "/process/args", json!("true"));
    refuse(daemon, "/process/user", json!({ "uid": -1, "gid": 0 }));
    refuse(daemon, "/mounts", json!({}));
    refuse(daemon, "/linux/namespaces", json!([{ "type": 3 }]));
}

fn unknown_rlimit(daemon: &Daemon) {
    let mut spec = spec();
    spec["process"]["rlimits"] = json!([{ "type": "RLIMIT_IMAGINARY", "soft": 1, "hard": 1 }]);
    refuse_spec(daemon, &spec);
}

fn relative_mount_destination(daemon: &Daemon) {
    for destination in ["data", "/data/../../etc", ""] {
        let mount =
            json!({ "destination": destination, "type": "bind", "source": "/tmp", "options": ["rbind"] });
        refuse(daemon, "/mounts", json!([mount]));
    }
}

fn bad_ids(daemon: &Daemon) {
    let long = "x".repeat(300);
    for id in [
        "..",
        ".",
        "a/b",
        "../escape",
        "-leading",
        "new\nline",
        "ü",
        "trailing.",
        long.as_str(),
    ] {
        let bundle = Shim::bundle(daemon, "bad-id");
        let output = Shim::run_start(daemon, id, &bundle);
        assert!(!output.status.success(), "start accepts {id:?}");
        let words = output.error_text();
        assert_eq!(
            words.trim_end().lines().count(),
            1,
            "one line for {id:?}: {words:?}"
        );
        fs::remove_dir_all(bundle).unwrap();
    }
}

fn delete_without_anything(daemon: &Daemon) {
    let id = daemon.new_id("never");
    let bundle = Shim::bundle(daemon, &id);
    for _ in 0..3 {
        let output = Shim::run_delete(daemon, &id, &bundle);
        assert!(output.status.success(), "{output:?}");
        assert!(!output.stdout.is_empty(), "a DeleteResponse");
    }
    fs::remove_dir_all(bundle).unwrap();
}
