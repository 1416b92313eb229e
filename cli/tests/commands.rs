//! The program as an operator runs it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn bulkhead(config: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command
        .arg("--config")
        .arg(config)
        .args(arguments)
        .output()
        .unwrap()
}

/// A configuration that keeps the test away from the node's own sandboxes.
fn config(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("config.toml");
    let state = directory.join("state");
    let text = format!(
        "accelerator = \"tcg\"\nkernel = \"/nonexistent\"\nstate_dir = \"{}\"\n",
        state.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn doctor_exits_with_the_worst_finding() {
    let directory = tempfile::tempdir().unwrap();
    let output = bulkhead(&config(directory.path()), &["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"], "fatal");
    assert_eq!(output.status.code(), Some(2));
    let kernel = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["id"] == "kernel")
        .unwrap();
    assert_eq!(kernel["status"], "fatal");
    assert!(kernel["evidence"].as_str().unwrap().contains("/nonexistent"));
    assert!(kernel["remedy"].is_string());
}

#[test]
fn ps_lists_nothing_where_nothing_is() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let table = bulkhead(&config, &["ps"]);
    assert!(table.status.success());
    assert!(String::from_utf8(table.stdout).unwrap().starts_with("NAMESPACE"));
    let json = bulkhead(&config, &["ps", "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&json.stdout).unwrap(),
        Value::Array(Vec::new())
    );
}

#[test]
fn a_command_that_cannot_work_says_why_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, "default_vcpus = 0").unwrap();
    let output = bulkhead(&path, &["ps"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with("bulkhead: ") && error.contains("default_vcpus"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn metrics_of_a_node_that_has_done_nothing_are_zero() {
    let directory = tempfile::tempdir().unwrap();
    let output = bulkhead(&config(directory.path()), &["metrics"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "# TYPE bulkhead_launches_total counter",
        "bulkhead_launches_total{origin=\"booted_instead\"} 0",
        "bulkhead_template_rejected_total{reason=\"torn\"} 0",
        "# TYPE bulkhead_templates gauge",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line}: {text}");
    }
}
