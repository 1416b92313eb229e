//! Further processes in a running container.

use std::thread;

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case, command};
use containerd_client::tonic::Code;
use nix::libc::{SIGKILL, SIGTERM};
use serde_json::json;

pub const CASES: &[Case] = &[
    case("codes", codes).core(),
    case("env_cwd_and_user", env_cwd_and_user),
    case("stdin", stdin),
    case("missing_command_fails_in_start", missing_command_fails_in_start),
    case("long_arguments", long_arguments),
    case("fifty_in_parallel", fifty_in_parallel),
    case("ids_are_unique_and_reusable", ids_are_unique_and_reusable),
    case("created_exec_can_be_deleted", created_exec_can_be_deleted),
    case(
        "kill_before_start_and_after_exit",
        kill_before_start_and_after_exit,
    ),
    case("ends_with_its_container", ends_with_its_container),
    case("through_ctr", through_ctr),
    case("has_of_its_container_what_it_does_not_say", inherits),
];

fn sleeper(daemon: &Daemon) -> Task<'_> {
    Container::new(daemon).args(["sleep", "1000"]).start()
}

fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn codes(daemon: &Daemon) {
    let task = sleeper(daemon);
    for code in [0, 7, 255] {
        task.sh(&format!("echo {code}; exit {code}"))
            .expect_exit(code)
            .expect_stdout(&format!("{code}\n"));
    }
    end(&task);
}

fn env_cwd_and_user(daemon: &Daemon) {
    let task = sleeper(daemon);
    let exec = task.exec(["sh", "-c", "echo $WORD; pwd; id -u; id -g"]);
    exec.env("WORD", "bulk head")
        .cwd("/tmp")
        .user(1000, 1001)
        .run()
        .expect_stdout("bulk head\n/tmp\n1000\n1001\n");
    end(&task);
}

fn stdin(daemon: &Daemon) {
    let task = sleeper(daemon);
    let mut exec = task.exec(["wc", "-c"]).stdin().start();
    exec.stdio.write(&[b'x'; 5000]);
    exec.close_stdin();
    exec.finish().expect_exit(0).expect_stdout("5000\n");
    end(&task);
}

fn missing_command_fails_in_start(daemon: &Daemon) {
    let task = sleeper(daemon);
    let exec = task.exec(["no-such-command"]).create();
    let status = exec.try_start().unwrap_err();
    let words = r#"exec: "no-such-command": executable file not found in $PATH"#;
    assert!(status.message().contains(words), "{status}");
    exec.delete();
    task.sh("echo alive").expect_stdout("alive\n");
    assert!(
        !task.events().contains(&format!("exec-started:{}", exec.exec_id)),
        "{:?}",
        task.events()
    );
    end(&task);
}

fn long_arguments(daemon: &Daemon) {
    let task = sleeper(daemon);
    let long = "x".repeat(64 * 1024);
    task.exec(["sh", "-c", "echo ${#1}", "sh", &long])
        .run()
        .expect_exit(0)
        .expect_stdout("65536\n");
    end(&task);
}

fn fifty_in_parallel(daemon: &Daemon) {
    let task = sleeper(daemon);
    thread::scope(|scope| {
        for number in 0..50 {
            let task = &task;
            scope.spawn(move || {
                let text = format!("{number}\n");
                task.sh(&format!("echo {number}; exit {number}"))
                    .expect_exit(number)
                    .expect_stdout(&text);
            });
        }
    });
    // Wait may return before the last of the events has arrived.
    let exits = || {
        task.events()
            .iter()
            .filter(|name| name.starts_with("exit:"))
            .count()
    };
    deadline::poll("50 exits", ORDINARY, || (exits() >= 50).then_some(()));
    assert_eq!(exits(), 50);
    end(&task);
}

fn ids_are_unique_and_reusable(daemon: &Daemon) {
    let task = sleeper(daemon);
    let first = task.exec(["sleep", "1000"]).id("same").start();
    let status = task
        .exec(["true"])
        .id("same")
        .try_create()
        .err()
        .expect("the id is taken");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
    first.kill(SIGKILL);
    assert_eq!(first.wait().status, 137);
    first.delete();
    drop(first);
    task.exec(["true"]).id("same").run().expect_exit(0);
    end(&task);
}

fn created_exec_can_be_deleted(daemon: &Daemon) {
    let task = sleeper(daemon);
    let exec = task.exec(["true"]).create();
    assert_eq!(exec.delete().status, 0);
    assert_eq!(exec.try_state().unwrap_err().code(), Code::NotFound);
    end(&task);
}

fn kill_before_start_and_after_exit(daemon: &Daemon) {
    let task = sleeper(daemon);
    let exec = task.exec(["true"]).create();
    assert!(
        exec.try_kill(SIGTERM).is_err(),
        "kill of an exec that was never started"
    );
    exec.start();
    assert_eq!(exec.wait().status, 0);
    assert_eq!(exec.try_kill(SIGTERM).unwrap_err().code(), Code::NotFound);
    exec.delete();
    end(&task);
}

fn ends_with_its_container(daemon: &Daemon) {
    let task = sleeper(daemon);
    let exec = task.exec(["sleep", "1000"]).id("e").start();
    let waiter = exec.waiter();
    task.kill(SIGKILL);
    assert_eq!(task.wait().status, 137);
    assert_eq!(waiter.exit(std::time::Duration::from_secs(10)).status, 137);
    exec.delete();
    task.delete();
    task.expect_events(&[
        "create",
        "start",
        "exec-added:e",
        "exec-started:e",
        "exit:e",
        "exit",
        "delete",
    ]);
}

fn through_ctr(daemon: &Daemon) {
    let task = sleeper(daemon);
    let mut ctr = daemon.ctr(["tasks", "exec", "--exec-id", "by-hand", "--fifo-dir"]);
    ctr.arg(daemon.path("fifo"))
        .arg(task.id())
        .args(["sh", "-c", "echo out; echo err >&2; exit 9"]);
    let output = bulkhead_tests::command::run(&mut ctr, b"", bulkhead_tests::deadline::ORDINARY);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(
        (output.text().as_str(), output.error_text().as_str()),
        ("out\n", "err\n")
    );
    end(&task);
}

/// Capabilities of an exec that says nothing of any are the container's; an empty list is its own.
fn inherits(daemon: &Daemon) {
    let task = sleeper(daemon);
    let script = "grep CapEff /proc/self/status | cut -f2";
    // ctr's default set, as the options topic has it.
    let of_container = "00000000a80425fb\n";
    task.sh(script).expect_exit(0).expect_stdout(of_container);
    let exec = [
        "tasks",
        "exec",
        "--exec-id",
        "through-ctr",
        task.id(),
        "sh",
        "-c",
        script,
    ];
    let through_ctr = command::succeed(&mut daemon.ctr(exec), ORDINARY).text();
    assert_eq!(through_ctr, of_container);
    let own = task.exec(["sh", "-c", script]);
    own.spec(|process| process["capabilities"] = json!({}))
        .run()
        .expect_exit(0)
        .expect_stdout("0000000000000000\n");
    end(&task);
}
