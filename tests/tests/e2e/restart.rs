//! containerd goes away, politely or not, while containers run.

use std::fs;

use bulkhead_tests::deadline::{self, LONG, ORDINARY};
use bulkhead_tests::events::Kind;
use bulkhead_tests::{Case, Container, Daemon, case};
use containerd_client::types::v1::Status as RunState;
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("tasks_survive_a_restart", tasks_survive_a_restart),
    case("tasks_survive_a_kill", tasks_survive_a_kill).core(),
    case("an_exit_meanwhile_is_reported", an_exit_meanwhile_is_reported).vm_only(),
    case("streams_go_on_after_a_restart", streams_go_on_after_a_restart),
    case("ten_restarts", ten_restarts),
];

fn tasks_survive_a_restart(daemon: &Daemon) {
    survive(daemon, Daemon::shut_down);
}

fn tasks_survive_a_kill(daemon: &Daemon) {
    survive(daemon, Daemon::kill_hard);
}

fn survive(daemon: &Daemon, end: fn(&Daemon)) {
    let mut task = Container::new(daemon).stdin().sh("read code; exit $code").start();
    let pid = task.pid();
    let cut_short = task.waiter();
    end(daemon);
    assert!(
        cut_short.answer(ORDINARY).is_err(),
        "the daemon went away under this Wait"
    );
    daemon.launch();
    let state = task.state();
    assert_eq!((state.status(), state.pid), (RunState::Running, pid));
    task.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    let waiter = task.waiter();
    task.stdio.write(b"33\n");
    assert_eq!(waiter.exit(ORDINARY).status, 33);
    let event = daemon.events().wait_for(task.id(), "exit", ORDINARY);
    assert!(matches!(event.kind, Kind::Exit { status: 33, .. }), "{event:?}");
    task.delete();
}

/// containerd 2.0 to 2.2 throw away a stopped task whose shim has no pids to tell; runc's has none.
fn an_exit_meanwhile_is_reported(daemon: &Daemon) {
    let dir = daemon.path("go");
    fs::create_dir(&dir).unwrap();
    let script = "until test -e /go/now; do sleep 0.05; done; echo last words; echo x > /go/done; exit 44";
    let task = Container::new(daemon)
        .bind(&dir, "/go", "rbind:rw")
        .sh(script)
        .start();
    daemon.kill_hard();
    fs::write(dir.join("now"), "").unwrap();
    deadline::poll("the container to reach its end", LONG, || {
        dir.join("done").exists().then_some(())
    });
    daemon.launch();
    let exit = task.wait();
    assert_eq!(exit.status, 44);
    assert_eq!(task.run_state(), RunState::Stopped);
    assert_eq!(task.delete(), exit);
    assert_eq!(
        String::from_utf8_lossy(&task.stdio.stdout().to_end(ORDINARY)),
        "last words\n"
    );
    fs::remove_dir_all(dir).unwrap();
}

fn streams_go_on_after_a_restart(daemon: &Daemon) {
    let mut task = Container::new(daemon).stdin().args(["cat"]).start();
    task.stdio.write(b"before\n");
    task.stdio.stdout().wait_for("before\n");
    daemon.kill_hard();
    task.stdio.write(b"between\n");
    task.stdio.stdout().wait_for("between\n");
    daemon.launch();
    task.stdio.write(b"after\n");
    task.stdio.stdout().wait_for("after\n");
    task.close_stdin();
    task.finish()
        .expect_exit(0)
        .expect_stdout("before\nbetween\nafter\n");
}

fn ten_restarts(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    for round in 0..10 {
        if round % 2 == 0 {
            daemon.kill_hard()
        } else {
            daemon.shut_down()
        }
        daemon.launch();
        assert_eq!(task.run_state(), RunState::Running, "round {round}");
    }
    task.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}
