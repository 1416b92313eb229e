//! Terminals: size, keys, and what a process sees.

use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("is_a_terminal", is_a_terminal).core(),
    case("resize_before_and_after_start", resize_before_and_after_start),
    case("ctrl_c_reaches_the_process", ctrl_c_reaches_the_process),
    case("exec_with_a_terminal", exec_with_a_terminal),
];

fn is_a_terminal(daemon: &Daemon) {
    let task = Container::new(daemon)
        .terminal()
        .sh("test -t 0 && test -t 1 && test -t 2 && tty")
        .start();
    let finished = task.finish();
    finished.expect_exit(0);
    assert!(finished.text().starts_with("/dev/"), "{finished:?}");
}

fn resize_before_and_after_start(daemon: &Daemon) {
    let mut task = Container::new(daemon)
        .terminal()
        .sh("stty size; read line; stty size")
        .create();
    task.resize(12, 34);
    task.start();
    task.stdio.stdout().wait_for("34 12\r\n");
    task.resize(100, 50);
    task.stdio.write(b"\n");
    task.stdio.stdout().wait_for("50 100\r\n");
    task.finish().expect_exit(0);
}

fn ctrl_c_reaches_the_process(daemon: &Daemon) {
    let mut task = Container::new(daemon)
        .terminal()
        .sh("trap 'exit 42' INT; echo up; while :; do sleep 1; done")
        .start();
    task.stdio.stdout().wait_for("up");
    task.stdio.write(b"\x03");
    task.finish().expect_exit(42);
}

fn exec_with_a_terminal(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let mut exec = task
        .exec(["sh", "-c", "read line; stty size; echo got $line"])
        .terminal()
        .start();
    exec.resize(81, 25);
    exec.stdio.write(b"words\n");
    let finished = exec.finish();
    finished.expect_exit(0);
    assert!(
        finished.text().contains("25 81\r\n") && finished.text().contains("got words\r\n"),
        "{finished:?}"
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}
