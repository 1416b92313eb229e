//! OCI hooks, which run on the host.

use std::fs;

use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Container, Daemon, case};
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("run_once_each_with_the_state", run_once_each_with_the_state),
    case("failure_fails_create", failure_fails_create),
];

/// A hook that appends its name and the state it is given to `log`, a line each.
fn hook(log: &str, name: &str) -> Value {
    let script = format!("echo \"{name} $MARK $(tr -d '\\n')\" >> {log}");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["MARK=mark", "PATH=/usr/bin:/bin"], "timeout": 10 })
}

fn run_once_each_with_the_state(daemon: &Daemon) {
    let log = daemon.path("hooks.log");
    let path = log.display().to_string();
    let container = Container::new(daemon).args(["true"]).spec(move |spec| {
        spec["hooks"] = json!({
            "createRuntime": [hook(&path, "createRuntime")],
            "poststart": [hook(&path, "poststart")],
            "poststop": [hook(&path, "poststop")],
        });
        spec["annotations"] = json!({ "org.example/key": "value" });
    });
    let id = container.id().to_owned();
    let task = container.create();
    let seen = |names: &[&str]| {
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), names.len(), "{text}");
        for (line, name) in lines.iter().zip(names) {
            let state = line
                .strip_prefix(&format!("{name} mark "))
                .unwrap_or_else(|| panic!("{name} in {text}"));
            let state: Value = serde_json::from_str(state).unwrap();
            assert_eq!(state["id"], json!(id), "{line}");
            assert_eq!(state["annotations"]["org.example/key"], json!("value"), "{line}");
            assert!(state["bundle"].as_str().unwrap().ends_with(&id), "{line}");
            if *name == "createRuntime" {
                assert_eq!(state["pid"], json!(task.pid()), "{line}");
            }
            if *name == "poststop" {
                assert_eq!(state["status"], json!("stopped"), "{line}");
            }
        }
    };
    // runc runs poststart in create; the specification puts it after start.
    if Settings::get().is_vm() {
        seen(&["createRuntime"]);
    }
    task.start();
    seen(&["createRuntime", "poststart"]);
    task.wait();
    task.delete();
    seen(&["createRuntime", "poststart", "poststop"]);
    fs::remove_file(&log).unwrap();
}

fn failure_fails_create(daemon: &Daemon) {
    let container = Container::new(daemon).args(["true"]).spec(|spec| {
        let failing = json!({ "path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 3"] });
        spec["hooks"] = json!({ "createRuntime": [failing] });
    });
    let status = container.try_create().err().expect("Create fails");
    assert!(status.message().contains("hook"), "{status}");
}
