//! `--log-uri`: where the output of a detached container goes.

use std::fs;
use std::path::Path;

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::{Case, Container, Daemon, case, command};

pub const CASES: &[Case] = &[
    case("file", file),
    case("binary", binary),
    case("binary_that_is_missing_fails_in_create", missing_binary),
];

/// Runs `container` detached with that log URI, waits for its end, and deletes it.
fn run_detached(daemon: &Daemon, container: &Container<'_>, uri: &str) {
    let mut ctr = daemon.ctr(["run", "--detach", "--log-uri", uri]);
    command::succeed(ctr.args(container.ctr_arguments()), deadline::LONG);
    deadline::poll("the container to stop", ORDINARY, || {
        let list = command::succeed(&mut daemon.ctr(["tasks", "ls"]), ORDINARY).text();
        list.lines()
            .any(|line| line.starts_with(container.id()) && line.contains("STOPPED"))
            .then_some(())
    });
    command::succeed(daemon.ctr(["tasks", "rm"]).arg(container.id()), ORDINARY);
    command::succeed(daemon.ctr(["containers", "rm"]).arg(container.id()), ORDINARY);
}

fn file(daemon: &Daemon) {
    let log = daemon.path("logs/sub/container.log");
    let container = Container::new(daemon).sh("echo one; echo two");
    run_detached(daemon, &container, &format!("file://{}", log.display()));
    assert_eq!(fs::read_to_string(&log).unwrap(), "one\ntwo\n");
    fs::remove_dir_all(daemon.path("logs")).unwrap();
}

fn binary(daemon: &Daemon) {
    let log = daemon.path("binary.log");
    let container = Container::new(daemon).sh("echo one; echo two >&2; seq 3");
    let logger = Path::new(env!("CARGO_BIN_EXE_bulkhead-test-logger"));
    run_detached(
        daemon,
        &container,
        &format!("binary://{}?file={}", logger.display(), log.display()),
    );
    let text = deadline::poll("the logger to have ended", ORDINARY, || {
        fs::read_to_string(&log)
            .ok()
            .filter(|text| text.ends_with("end\n"))
    });
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.remove(0),
        format!("id {} namespace {}", container.id(), daemon.namespace())
    );
    let of = |stream: &str| {
        lines
            .iter()
            .filter(|line| line.starts_with(stream))
            .copied()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("stdout"),
        ["stdout: one", "stdout: 1", "stdout: 2", "stdout: 3"]
    );
    assert_eq!(of("stderr"), ["stderr: two"]);
    fs::remove_file(log).unwrap();
}

fn missing_binary(daemon: &Daemon) {
    let container = Container::new(daemon).args(["true"]);
    let mut ctr = daemon.ctr(["run", "--detach", "--log-uri", "binary:///no/such/logger"]);
    let output = command::run(ctr.args(container.ctr_arguments()), b"", deadline::LONG);
    assert!(!output.status.success(), "{output:?}");
    daemon.remove(container.id());
}
