//! What is done to a container as a whole: kill --all, pause, update, pids, metrics, OOM.

use std::time::Duration;

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case, command, mib};
use containerd_client::types::v1::Status as RunState;
use nix::libc::{SIGKILL, SIGUSR1};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("kill_all", kill_all),
    case("kill_all_reaches_every_process", kill_all_reaches_every_process).vm_only(),
    case("pause_and_resume", pause_and_resume),
    case("kill_while_paused", kill_while_paused),
    case("exec_while_paused_is_refused", exec_while_paused_is_refused),
    case("update_memory_and_cpu", update_memory_and_cpu),
    case("pids", pids),
    case(
        "pid_is_a_host_process_for_as_long_as_the_container",
        pid_is_a_host_process,
    ),
    case("metrics", metrics),
    case("oom_kill", oom_kill).core(),
    case("state_and_list", state_and_list),
];

/// The first of these files of the container's cgroup that is there: v2's name, then v1's.
fn cgroup_file(task: &Task<'_>, v2: &str, v1: &str) -> String {
    let script = format!("cd /sys/fs/cgroup; if test -e {v2}; then cat {v2}; else cat {v1}; fi");
    let finished = task.sh(&script);
    finished.expect_exit(0);
    finished.text().trim().to_owned()
}

fn kill_all(daemon: &Daemon) {
    let task = Container::new(daemon).sh("sleep 1000 & echo up; wait").start();
    let exec = task.exec(["sleep", "1000"]).start();
    task.stdio.stdout().wait_for("up");
    task.kill_all(SIGKILL);
    exec.finish().expect_exit(137);
    task.finish().expect_exit(137);
}

/// runc 1.3 and later leave out all but the init where the container has its own pid namespace.
fn kill_all_reaches_every_process(daemon: &Daemon) {
    let script = |then: &str| format!("trap 'echo got; {then}' USR1; echo up; while :; do sleep 0.1; done");
    // Init stays: its end would be everybody's.
    let task = Container::new(daemon).sh(&script(":")).start();
    let exec = task.exec(["sh", "-c", &script("exit 8")]).start();
    task.stdio.stdout().wait_for("up");
    exec.stdio.stdout().wait_for("up");
    task.kill_all(SIGUSR1);
    exec.finish().expect_exit(8).expect_stdout("up\ngot\n");
    task.stdio.stdout().wait_for("got");
    task.kill(SIGKILL);
    task.finish().expect_exit(137).expect_stdout("up\ngot\n");
}

fn pause_and_resume(daemon: &Daemon) {
    let task = Container::new(daemon)
        .sh("while :; do echo tick; sleep 0.05; done")
        .start();
    task.stdio.stdout().wait_for("tick");
    task.pause();
    assert_eq!(task.run_state(), RunState::Paused);
    assert!(task.try_pause().is_err(), "pause of a paused task");
    // What was on its way when the container froze may still arrive; then nothing more does.
    let silence = Duration::from_millis(500);
    let quiet = deadline::poll("silence", ORDINARY, || {
        let before = task.stdio.stdout().len();
        std::thread::sleep(silence);
        (task.stdio.stdout().len() == before).then_some(before)
    });
    task.resume();
    assert_eq!(task.run_state(), RunState::Running);
    deadline::poll("a tick after resume", ORDINARY, || {
        (task.stdio.stdout().len() > quiet).then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    task.expect_events(&["create", "start", "paused", "resumed", "exit", "delete"]);
}

fn kill_while_paused(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    task.pause();
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn exec_while_paused_is_refused(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    task.pause();
    assert!(
        task.exec(["true"])
            .try_create()
            .and_then(|exec| exec.try_start())
            .is_err()
    );
    task.resume();
    task.sh("echo on").expect_stdout("on\n");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn update_memory_and_cpu(daemon: &Daemon) {
    let container = Container::new(daemon)
        .args(["sleep", "1000"])
        .memory_limit(mib(64))
        .cgroup_mount();
    let task = container.start();
    let memory = |task: &Task<'_>| cgroup_file(task, "memory.max", "memory/memory.limit_in_bytes");
    assert_eq!(memory(&task), mib(64).to_string());
    task.update(&json!({ "memory": { "limit": mib(96) } }));
    assert_eq!(memory(&task), mib(96).to_string());
    task.update(&json!({ "cpu": { "quota": 50_000, "period": 100_000 } }));
    assert!(
        ["50000 100000", "50000"].contains(&cgroup_file(&task, "cpu.max", "cpu/cpu.cfs_quota_us").as_str())
    );
    assert_eq!(
        memory(&task),
        mib(96).to_string(),
        "what an update leaves out stays"
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn pids(daemon: &Daemon) {
    let task = Container::new(daemon).sh("sleep 1000 & echo up; wait").start();
    task.stdio.stdout().wait_for("up");
    let pids = deadline::poll("both processes", ORDINARY, || {
        Some(task.pids()).filter(|pids| pids.len() == 2)
    });
    assert!(pids.contains(&task.pid()), "{pids:?} without {}", task.pid());
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn pid_is_a_host_process(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let pid = Pid::from_raw(i32::try_from(task.pid()).unwrap());
    kill(pid, None).expect("the pid is a process of the host");
    assert_eq!(task.state().pid, task.pid());
    task.kill(SIGKILL);
    task.wait();
    deadline::poll("the host process to end", ORDINARY, || {
        kill(pid, None).is_err().then_some(())
    });
    task.delete();
}

fn metrics(daemon: &Daemon) {
    let script = "i=0; while test $i -lt 20000; do i=$((i+1)); done; echo up; sleep 1000";
    let task = Container::new(daemon).sh(script).start();
    task.stdio.stdout().wait_for("up");
    let read = || {
        let mut ctr = daemon.ctr(["tasks", "metrics", "--format", "json", task.id()]);
        let output = command::succeed(&mut ctr, ORDINARY);
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", output.text()))
    };
    let number = |metrics: &Value, places: [&str; 2]| {
        places
            .iter()
            .find_map(|place| metrics.pointer(place))
            .and_then(Value::as_u64)
            .unwrap_or(0)
    };
    // Counters may be a second old: they are pushed, not asked for.
    deadline::poll("metrics that are not zero", ORDINARY, || {
        let metrics = read();
        let cpu = number(&metrics, ["/cpu/usage/total", "/cpu/usage_usec"]);
        let memory = number(&metrics, ["/memory/usage/usage", "/memory/usage"]);
        let pids = number(&metrics, ["/pids/current", "/pids/current"]);
        (cpu > 0 && memory >= 100_000 && pids >= 1).then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn oom_kill(daemon: &Daemon) {
    let task = Container::new(daemon)
        .args(["tail", "/dev/zero"])
        .memory_limit(mib(32))
        .start();
    task.finish().expect_exit(137);
    task.expect_events(&["create", "start", "oom", "exit", "delete"]);
}

fn state_and_list(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).create();
    let list = || command::succeed(&mut daemon.ctr(["tasks", "ls"]), ORDINARY).text();
    let line = |list: &str| {
        list.lines()
            .find(|line| line.starts_with(&format!("{} ", task.id())))
            .unwrap()
            .to_owned()
    };
    assert!(line(&list()).contains("CREATED"), "{}", list());
    task.start();
    assert!(line(&list()).contains("RUNNING"), "{}", list());
    assert!(line(&list()).contains(&task.pid().to_string()), "{}", list());
    task.kill(SIGKILL);
    task.wait();
    assert!(line(&list()).contains("STOPPED"), "{}", list());
    assert!(task.try_delete().is_ok());
}
