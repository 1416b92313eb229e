//! How a container ends, and what containerd is told of it.

use std::time::{Duration, SystemTime};

use bulkhead_tests::deadline::ORDINARY;
use bulkhead_tests::events::Kind;
use bulkhead_tests::{Case, Container, Daemon, case};
use containerd_client::tonic::Code;
use nix::libc::{SIGKILL, SIGTERM};

pub const CASES: &[Case] = &[
    case("codes", codes).core(),
    case("signals", signals).core(),
    case("missing_command_fails_in_create", missing_command_fails_in_create).core(),
    case(
        "exited_at_lies_between_start_and_now",
        exited_at_lies_between_start_and_now,
    ),
    case(
        "events_are_complete_and_in_order",
        events_are_complete_and_in_order,
    )
    .core(),
    case(
        "wait_answers_before_and_after_the_exit",
        wait_answers_before_and_after_the_exit,
    ),
    case("the_same_id_can_be_used_again", the_same_id_can_be_used_again),
    case("kill_of_a_created_task", kill_of_a_created_task),
    case("calls_after_the_end_are_refused", calls_after_the_end_are_refused),
];

fn codes(daemon: &Daemon) {
    for code in [0, 7, 255] {
        let script = format!("echo out; echo err >&2; exit {code}");
        let ran = Container::new(daemon).sh(&script).run();
        ran.expect_exit(code)
            .expect_stdout("out\n")
            .expect_stderr_contains("err");
    }
}

fn signals(daemon: &Daemon) {
    // The first process of a pid namespace gets no signal that it does not handle, but for SIGKILL.
    let task = Container::new(daemon)
        .sh("trap 'exit 9' TERM; echo up; sleep 1000 & wait")
        .start();
    task.stdio.stdout().wait_for("up");
    for (signal, status) in [(SIGTERM, 143), (SIGKILL, 137)] {
        let exec = task.exec(["sleep", "1000"]).start();
        exec.kill(signal);
        exec.finish().expect_exit(status);
    }
    task.kill(SIGTERM);
    task.finish().expect_exit(9);
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn missing_command_fails_in_create(daemon: &Daemon) {
    let status = Container::new(daemon)
        .args(["no-such-command"])
        .try_create()
        .err()
        .expect("Create fails");
    let words = r#"exec: "no-such-command": executable file not found in $PATH"#;
    assert!(status.message().contains(words), "{status}");
    let status = Container::new(daemon)
        .args(["/no/such/file"])
        .try_create()
        .err()
        .expect("Create fails");
    assert!(status.message().contains("no such file or directory"), "{status}");
}

fn exited_at_lies_between_start_and_now(daemon: &Daemon) {
    let before = SystemTime::now();
    let task = Container::new(daemon).sh("exit 3").start();
    let exit = task.wait();
    assert!(
        exit.at >= before && exit.at <= SystemTime::now(),
        "{exit:?} is not after {before:?}"
    );
    let state = task.state();
    assert_eq!(state.exit_status, 3);
    assert_eq!(
        SystemTime::try_from(state.exited_at.unwrap()).unwrap(),
        exit.at,
        "State and Wait agree"
    );
    let event = daemon.events().wait_for(task.id(), "exit", ORDINARY);
    assert_eq!(task.delete(), exit, "Delete and Wait agree");
    let Kind::Exit { pid, status, at, .. } = event.kind else {
        unreachable!("an exit")
    };
    assert_eq!(
        (pid, status, at),
        (task.pid(), 3, exit.at),
        "TaskExit and Wait agree"
    );
}

fn events_are_complete_and_in_order(daemon: &Daemon) {
    let task = Container::new(daemon).sh("sleep 1000").start();
    let exec = task.exec(["true"]).id("e1").start();
    exec.wait();
    exec.delete();
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    task.expect_events(&[
        "create",
        "start",
        "exec-added:e1",
        "exec-started:e1",
        "exit:e1",
        "exit",
        "delete",
    ]);
    let events = daemon.events().of(task.id());
    let Kind::Create { pid, bundle, io } = &events[0].kind else {
        panic!("{events:?}")
    };
    assert_eq!(*pid, task.pid());
    assert!(bundle.ends_with(task.id()), "{bundle}");
    assert_eq!(io.as_ref().unwrap().stdout, task.stdio.stdout_path);
}

fn wait_answers_before_and_after_the_exit(daemon: &Daemon) {
    let task = Container::new(daemon).sh("exit 5").create();
    let early: Vec<_> = (0..3).map(|_| task.waiter()).collect();
    assert!(task.pid() > 0);
    assert_eq!(task.start(), task.pid());
    for waiter in early {
        assert_eq!(waiter.exit(ORDINARY).status, 5);
    }
    assert_eq!(task.wait().status, 5);
    assert_eq!(task.state().pid, task.pid(), "a stopped task still tells its pid");
    task.delete();
}

fn the_same_id_can_be_used_again(daemon: &Daemon) {
    for _ in 0..2 {
        Container::new(daemon)
            .named("again")
            .sh("echo once")
            .run()
            .expect_exit(0)
            .expect_stdout("once\n");
    }
}

fn kill_of_a_created_task(daemon: &Daemon) {
    let task = Container::new(daemon).sh("sleep 1000").create();
    let waiter = task.waiter();
    task.kill(SIGKILL);
    assert_eq!(waiter.exit(Duration::from_secs(10)).status, 137);
    task.delete();
}

fn calls_after_the_end_are_refused(daemon: &Daemon) {
    let task = Container::new(daemon).sh("exit 0").start();
    assert_eq!(task.wait().status, 0);
    assert_eq!(
        task.try_kill(SIGTERM).unwrap_err().code(),
        Code::NotFound,
        "kill after exit"
    );
    assert!(task.try_start().is_err(), "a second start");
    let exec = task.exec(["true"]).try_create().and_then(|exec| exec.try_start());
    assert!(exec.is_err(), "exec after exit");
    task.delete();
    assert_eq!(
        task.try_state().unwrap_err().code(),
        Code::NotFound,
        "state after delete"
    );
    assert_eq!(
        task.try_delete().unwrap_err().code(),
        Code::NotFound,
        "a second delete"
    );
}
