//! OCI hooks: on the host, and those of the container's own programs.

use std::fs;

use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Container, Daemon, case};
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("run_once_each_with_the_state", run_once_each_with_the_state),
    case("failure_fails_create", failure_fails_create),
    case("start_container_runs_inside", start_container_runs_inside),
    case("start_container_failure_ends_it", start_container_failure_ends_it),
    case(
        "start_container_is_not_waited_for_forever",
        start_container_is_not_waited_for_forever,
    ),
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

/// A `startContainer` hook: `script` in the container's shell.
fn inside(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["MARK=mark", "PATH=/bin"], "timeout": 10 })
}

fn start_container_runs_inside(daemon: &Daemon) {
    let container = Container::new(daemon)
        .sh("env | grep MARK; cat /tmp/state; cat /tmp/second")
        .spec(|spec| {
            let hooks = [
                inside("test $$ != 1 && cat > /tmp/state && echo noise"),
                inside("echo $MARK $(id -u) > /tmp/second"),
            ];
            spec["hooks"] = json!({ "startContainer": hooks });
            spec["annotations"] = json!({ "org.example/key": "value" });
        });
    let id = container.id().to_owned();
    let task = container.create();
    task.start();
    let finished = task.finish();
    finished.expect_exit(0);
    let text = finished.text();
    let (state, second) = text.rsplit_once('}').unwrap_or_else(|| panic!("{text:?}"));
    // A hook's environment and output are its own.
    assert_eq!(second.trim(), "mark 0");
    let state: Value = serde_json::from_str(&format!("{state}}}")).unwrap();
    assert_eq!(state["id"], json!(id), "{text}");
    assert_eq!(state["status"], json!("created"), "{text}");
    assert_eq!(state["pid"], json!(1), "{text}");
    assert!(state["bundle"].as_str().unwrap().ends_with(&id), "{text}");
    assert_eq!(state["annotations"]["org.example/key"], json!("value"), "{text}");
}

fn start_container_failure_ends_it(daemon: &Daemon) {
    let container = Container::new(daemon).sh("echo ran").spec(|spec| {
        spec["hooks"] =
            json!({ "startContainer": [inside("echo no luck >&2; exit 3"), inside("echo > /tmp/x")] });
    });
    let task = container.create();
    let started = task.try_start();
    // runc's start does not hear of it.
    if Settings::get().is_vm() {
        let status = started.expect_err("Start fails");
        let words = "startContainer hook /bin/sh failed: exit status: 3, output: no luck";
        assert!(status.message().contains(words), "{status}");
    }
    task.finish().expect_exit(255).expect_stdout("");
}

fn start_container_is_not_waited_for_forever(daemon: &Daemon) {
    let container = Container::new(daemon).sh("echo ran").spec(|spec| {
        let mut slow = inside("exec sleep 1000");
        slow["timeout"] = json!(1);
        spec["hooks"] = json!({ "startContainer": [slow] });
    });
    let task = container.create();
    let started = task.try_start();
    if Settings::get().is_vm() {
        let status = started.expect_err("Start fails");
        assert!(status.message().contains("did not finish within 1s"), "{status}");
    }
    task.finish().expect_exit(255).expect_stdout("");
}
