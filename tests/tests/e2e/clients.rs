//! Other clients than `ctr`: nerdctl as a user types it, and pods through CRI.

use std::fs;
use std::process::Command;

use bulkhead_tests::command::{self, Output};
use bulkhead_tests::deadline::{self, LONG, ORDINARY};
use bulkhead_tests::leak::Baseline;
use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Daemon, case};
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("nerdctl_run", nerdctl_run).since(2, 0),
    case("nerdctl_container_of_its_own", nerdctl_container).since(2, 0),
    case("nerdctl_limits_and_volumes", nerdctl_limits_and_volumes).since(2, 0),
    case("nerdctl_joins_a_container", nerdctl_joins).since(2, 0),
    case("nerdctl_terminal", nerdctl_terminal).since(2, 0),
    case("nerdctl_network", nerdctl_network).since(2, 0),
    case("crictl_pod_of_two", crictl_pod_of_two).since(2, 0),
];

/// Prints the memory limit of the container that runs it, on either version of cgroups.
const SHOW_MEMORY: &str = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes";

/// CRI's NamespaceMode CONTAINER: what kubelet asks for unless a pod shares its processes.
const PID_OF_CONTAINER: u32 = 1;

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

/// A pod, driven by `crictl`.
struct Pod<'d> {
    daemon: &'d Daemon,
    id: String,
    config: String,
}

impl<'d> Pod<'d> {
    fn run(daemon: &'d Daemon) -> Self {
        fs::write(daemon.path("crictl.yaml"), "debug: false\n").unwrap();
        fs::create_dir_all(daemon.path("logs")).unwrap();
        let config = write(
            daemon,
            "pod",
            &json!({
                "metadata": { "name": "pod", "uid": "uid", "namespace": "default" },
                "hostname": "pod",
                "log_directory": daemon.path("logs"),
                "linux": {
                    "cgroup_parent": format!("/{}", daemon.name()),
                    "security_context": { "namespace_options": { "pid": PID_OF_CONTAINER } },
                },
            }),
        );
        let id = crictl(daemon, &["runp", "--runtime", daemon.handler(), &config])
            .text()
            .trim()
            .to_owned();
        daemon.note_id(&id);
        Self { daemon, id, config }
    }

    /// Creates and starts a container with a shell script.
    fn start(&self, name: &str, script: &str) -> String {
        let config = write(
            self.daemon,
            name,
            &json!({
                "metadata": { "name": name },
                "image": { "image": self.daemon.image() },
                "command": ["sh", "-c", script],
                "log_path": format!("{name}.log"),
                "linux": {
                    "resources": { "memory_limit_in_bytes": 64 << 20 },
                    "security_context": { "namespace_options": { "pid": PID_OF_CONTAINER } },
                },
            }),
        );
        let id = crictl(self.daemon, &["create", &self.id, &config, &self.config])
            .text()
            .trim()
            .to_owned();
        crictl(self.daemon, &["start", &id]);
        id
    }

    /// What a script prints; crictl adds empty lines.
    fn exec(&self, id: &str, script: &str) -> String {
        let output = crictl(self.daemon, &["exec", "--sync", id, "sh", "-c", script]);
        output.text().trim_end().to_owned()
    }
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        // It is gone already, unless the test has failed.
        drop(self.daemon.crictl(["rmp", "--force", &self.id]).output());
    }
}

fn write(daemon: &Daemon, name: &str, config: &Value) -> String {
    let path = daemon.path(&format!("{name}.json"));
    fs::write(&path, config.to_string()).unwrap();
    path.display().to_string()
}

#[track_caller]
fn crictl(daemon: &Daemon, args: &[&str]) -> Output {
    command::succeed(&mut daemon.crictl(args), LONG)
}

fn crictl_pod_of_two(daemon: &Daemon) {
    let cri = Daemon::start_with_cri(daemon.version());
    let baseline = Baseline::of(&cri);
    let pod = Pod::run(&cri);
    let first = pod.start(
        "first",
        "trap 'exit 5' TERM; echo from the first; while :; do sleep 0.1; done",
    );
    let second = pod.start("second", "while :; do echo greeting | nc -l -p 8080; done");
    assert_eq!(pod.exec(&first, "hostname"), "pod");
    assert!(
        pod.exec(&second, "ip -4 -o addr show dev eth0")
            .contains("10.88.77.")
    );
    // One network, and with a VM one kernel, for both.
    let greet = || pod.exec(&first, "nc -w 5 127.0.0.1 8080 </dev/null || true");
    deadline::poll("the other container's greeting", ORDINARY, || {
        (greet() == "greeting").then_some(())
    });
    let boot_id = |id| pod.exec(id, "cat /proc/sys/kernel/random/boot_id");
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let host = host.trim_end();
    assert_eq!(boot_id(&first), boot_id(&second));
    assert_eq!(boot_id(&first) != host, Settings::get().is_vm());
    // Over the streaming server, too.
    let streamed = command::run(
        &mut cri.crictl(["exec", "-i", &second, "cat"]),
        b"streamed\n",
        LONG,
    );
    assert_eq!(streamed.text(), "streamed\n", "{}", streamed.error_text());
    assert_eq!(crictl(&cri, &["logs", &first]).text(), "from the first\n");
    assert!(
        crictl(&cri, &["stats", "--output", "json"])
            .text()
            .contains("first")
    );
    crictl(&cri, &["stop", "--timeout", "20", &first]);
    let inspected = crictl(&cri, &["inspect", "--output", "json", &first]).text();
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["status"]["exitCode"], 5, "{inspected}");
    crictl(&cri, &["rm", &first]);
    assert_eq!(pod.exec(&second, "echo alive"), "alive");
    crictl(&cri, &["stopp", &pod.id]);
    crictl(&cri, &["rmp", &pod.id]);
    let left = baseline.wait_restored(&cri);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}
