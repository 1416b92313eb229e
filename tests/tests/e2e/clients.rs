//! Other clients than `ctr`: nerdctl as a user types it, and pods through CRI.

use std::fs;
use std::process::Command;

use bulkhead_tests::command::{self, Output};
use bulkhead_tests::deadline::{self, LONG, ORDINARY};
use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Daemon, case};

use crate::pods;

pub const CASES: &[Case] = &[
    case("nerdctl_run", nerdctl_run).since(2, 0),
    case("nerdctl_container_of_its_own", nerdctl_container).since(2, 0),
    case("nerdctl_limits_and_volumes", nerdctl_limits_and_volumes).since(2, 0),
    case("nerdctl_joins_a_container", nerdctl_joins).since(2, 0),
    case("nerdctl_terminal", nerdctl_terminal).since(2, 0),
    case("nerdctl_network", nerdctl_network).since(2, 0),
    case("crictl_pod_of_two", pods::pod_of_two).since(2, 0),
    case("crictl_block_volume", pods::block_volume).since(2, 0),
];

/// Prints the memory limit of the container that runs it, on either version of cgroups.
const SHOW_MEMORY: &str = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes";

/// `nerdctl run ARGS`, under the tested runtime.
fn nerdctl_run_command(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = daemon.nerdctl(["run", "--pull", "never", "--runtime", &Settings::get().runtime]);
    command.args(args);
    command
}

#[track_caller]
fn nerdctl(daemon: &Daemon, args: &[&str]) -> Output {
    command::succeed(&mut daemon.nerdctl(args), LONG)
}

/// Its input is read by the line: nerdctl may tell runc of the end before there is an input to end.
fn nerdctl_run(daemon: &Daemon) {
    let args = [
        "--rm",
        "--net",
        "none",
        "-i",
        daemon.image(),
        "sh",
        "-c",
        "read line; echo got $line; echo err >&2; exit 7",
    ];
    let output = command::run(&mut nerdctl_run_command(daemon, &args), b"in\n", LONG);
    assert_eq!(
        (output.status.code(), output.text()),
        (Some(7), "got in\n".to_owned())
    );
    assert!(output.error_text().contains("err"), "{}", output.error_text());
}

fn nerdctl_container(daemon: &Daemon) {
    let script = "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done";
    let args = [
        "-d",
        "--name",
        "box",
        "--net",
        "none",
        "--hostname",
        "inside",
        daemon.image(),
        "sh",
        "-c",
        script,
    ];
    let id = command::succeed(&mut nerdctl_run_command(daemon, &args), LONG).text();
    daemon.note_id(id.trim());
    deadline::poll("its output in the log", ORDINARY, || {
        (nerdctl(daemon, &["logs", "box"]).text() == "hello\n").then_some(())
    });
    assert_eq!(nerdctl(daemon, &["exec", "box", "hostname"]).text(), "inside\n");
    let failed = command::run(
        &mut daemon.nerdctl(["exec", "box", "sh", "-c", "exit 9"]),
        b"",
        LONG,
    );
    // nerdctl's own status is 1.
    assert!(
        failed.error_text().contains("exit code 9"),
        "{}",
        failed.error_text()
    );
    assert!(nerdctl(daemon, &["ps"]).text().contains("box"));
    assert!(
        nerdctl(daemon, &["stats", "--no-stream", "box"])
            .text()
            .contains("box")
    );
    nerdctl(daemon, &["pause", "box"]);
    nerdctl(daemon, &["unpause", "box"]);
    nerdctl(daemon, &["stop", "box"]);
    let state = nerdctl(daemon, &["inspect", "--format", "{{.State.ExitCode}}", "box"]).text();
    assert_eq!(state, "3\n");
    deadline::poll("the last words in the log", ORDINARY, || {
        (nerdctl(daemon, &["logs", "box"]).text() == "hello\nbye\n").then_some(())
    });
    nerdctl(daemon, &["rm", "box"]);
}

/// Containers share network and processes with one that is there, and outlive it.
fn nerdctl_joins(daemon: &Daemon) {
    let start = |name: &str, options: &[&str], command: &str| {
        let options = [
            &["-d", "--name", name],
            options,
            &[daemon.image(), "sh", "-c", command],
        ]
        .concat();
        let id = command::succeed(&mut nerdctl_run_command(daemon, &options), LONG).text();
        daemon.note_id(id.trim());
    };
    start("web", &["--net", "none"], "nc -ll -p 8080 -e echo from web");
    start("guest", &["--net", "container:web"], "sleep 1000");
    let ask = ["exec", "guest", "nc", "127.0.0.1", "8080"];
    deadline::poll("an answer of the neighbour", ORDINARY, || {
        let asked = command::run(&mut daemon.nerdctl(ask), b"", LONG);
        (asked.text() == "from web\n").then_some(())
    });
    let watch = [
        "--rm",
        "--net",
        "none",
        "--pid",
        "container:web",
        daemon.image(),
        "ps",
    ];
    let seen = command::succeed(&mut nerdctl_run_command(daemon, &watch), LONG).text();
    assert!(seen.contains("nc -ll -p 8080"), "{seen}");
    nerdctl(daemon, &["rm", "-f", "web"]);
    assert_eq!(
        nerdctl(daemon, &["exec", "guest", "echo", "alive"]).text(),
        "alive\n"
    );
    nerdctl(daemon, &["rm", "-f", "guest"]);
}

fn nerdctl_limits_and_volumes(daemon: &Daemon) {
    let shared = daemon.path("shared");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("file"), "of the host\n").unwrap();
    let bind = format!("{}:/shared:ro", shared.display());
    let script = format!(
        "cat /shared/file; touch /shared/new 2>/dev/null || echo read-only; echo kept > /kept/file; ({SHOW_MEMORY})"
    );
    let args = [
        "--rm",
        "--net",
        "none",
        "--memory",
        "64m",
        "--cpus",
        "1.5",
        "-v",
        &bind,
        "-v",
        "vol:/kept",
        daemon.image(),
        "sh",
        "-c",
        &script,
    ];
    let output = command::succeed(&mut nerdctl_run_command(daemon, &args), LONG);
    assert_eq!(output.text(), "of the host\nread-only\n67108864\n");
    let args = [
        "--rm",
        "--net",
        "none",
        "-v",
        "vol:/kept",
        daemon.image(),
        "cat",
        "/kept/file",
    ];
    assert_eq!(
        command::succeed(&mut nerdctl_run_command(daemon, &args), LONG).text(),
        "kept\n"
    );
    nerdctl(daemon, &["volume", "rm", "vol"]);
    fs::remove_dir_all(shared).unwrap();
}

/// `script` gives nerdctl the terminal that it wants, whose size the container gets a moment after its start.
fn nerdctl_terminal(daemon: &Daemon) {
    let args = [
        "--rm",
        "-it",
        "--net",
        "none",
        daemon.image(),
        "sh",
        "-c",
        "tty; until stty size | grep -qx '30 90'; do sleep 0.1; done; read line; echo got $line",
    ];
    let run = nerdctl_run_command(daemon, &args);
    let mut words = vec!["stty rows 30 cols 90;".to_owned()];
    let quoted = [run.get_program()].into_iter().chain(run.get_args());
    words.extend(quoted.map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"))));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
    script
        .env_clear()
        .envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command::run(&mut script, b"words\n", LONG);
    let text = output.text();
    assert!(output.status.success(), "{text}");
    for expected in ["/dev/pts/0", "got words"] {
        assert!(text.contains(expected), "{expected:?} is not in {text:?}");
    }
}

fn nerdctl_network(daemon: &Daemon) {
    let args = [
        "--rm",
        daemon.image(),
        "ip",
        "-4",
        "-o",
        "addr",
        "show",
        "dev",
        "eth0",
    ];
    let output = command::succeed(&mut nerdctl_run_command(daemon, &args), LONG);
    assert!(output.text().contains("10.88.77."), "{}", output.text());
}
