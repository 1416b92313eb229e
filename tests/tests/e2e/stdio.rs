//! Streams: nothing is lost, and one that stalls holds up nothing else.

use std::time::Duration;

use bulkhead_tests::deadline::{self, LONG, ORDINARY};
use bulkhead_tests::{Case, Container, Daemon, case, mib};
use nix::libc::SIGKILL;
use sha2::{Digest, Sha256};

pub const CASES: &[Case] = &[
    case("stdin_to_its_end", stdin_to_its_end),
    case(
        "stdin_through_the_api_ends_with_close_io",
        stdin_through_the_api_ends_with_close_io,
    ),
    case("twenty_mib_through_cat", twenty_mib_through_cat).core(),
    case(
        "output_then_immediate_exit_and_delete",
        output_then_immediate_exit_and_delete,
    )
    .core(),
    case("stderr_is_apart_from_stdout", stderr_is_apart_from_stdout),
    case(
        "unread_stdout_stalls_only_itself",
        unread_stdout_stalls_only_itself,
    ),
    case(
        "unread_stdout_does_not_hold_up_kill",
        unread_stdout_does_not_hold_up_kill,
    ),
    case("grandchild_that_holds_stdout", grandchild_that_holds_stdout),
    case("detach_and_attach_again", detach_and_attach_again),
    case("null_streams", null_streams),
];

/// Bytes that no compression or repetition hides a loss in.
fn noise(len: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..len / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn stdin_to_its_end(daemon: &Daemon) {
    // More than fits the pipes: ctr misses an end of input that comes before NewTask has returned.
    let ran = Container::new(daemon)
        .args(["wc", "-c"])
        .run_with_stdin(&noise(mib(4)));
    ran.expect_exit(0).expect_stdout("4194304\n");
}

fn stdin_through_the_api_ends_with_close_io(daemon: &Daemon) {
    let mut task = Container::new(daemon).stdin().args(["cat"]).start();
    task.stdio.write(b"first\n");
    task.stdio.stdout().wait_for("first\n");
    // A client that goes away is not an end of input; one that comes back goes on.
    task.stdio.close_writer();
    task.stdio.write(b"second\n");
    task.stdio.stdout().wait_for("second\n");
    task.close_stdin();
    task.finish().expect_exit(0).expect_stdout("first\nsecond\n");
}

fn twenty_mib_through_cat(daemon: &Daemon) {
    let input = noise(mib(20));
    let ran = Container::new(daemon).args(["cat"]).run_with_stdin(&input);
    ran.expect_exit(0);
    assert_eq!(ran.bytes().len(), input.len());
    assert_eq!(sum(ran.bytes()), sum(&input));
}

fn output_then_immediate_exit_and_delete(daemon: &Daemon) {
    let task = Container::new(daemon)
        .sh("head -c 8388608 /dev/zero; exit 4")
        .start();
    assert_eq!(task.wait().status, 4);
    task.delete();
    assert_eq!(task.stdio.stdout().to_end(ORDINARY).len() as u64, mib(8));
}

fn stderr_is_apart_from_stdout(daemon: &Daemon) {
    let task = Container::new(daemon)
        .sh("echo one; echo two >&2; echo three")
        .start();
    let finished = task.finish();
    finished.expect_exit(0).expect_stdout("one\nthree\n");
    assert_eq!(finished.error_text(), "two\n");
}

fn unread_stdout_stalls_only_itself(daemon: &Daemon) {
    let mut task = Container::new(daemon)
        .unread_stdout()
        .sh("while :; do head -c 1000000 /dev/zero; echo tick >&2; done")
        .start();
    for _ in 0..3 {
        task.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    }
    let stalled = task
        .exec(["head", "-c", "4000000", "/dev/zero"])
        .unread_stdout()
        .start();
    task.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    stalled.kill(SIGKILL);
    assert_eq!(stalled.wait().status, 137);
    stalled.delete();
    // Read again, the stalled stream goes on.
    let before = task.stdio.stderr().len();
    task.stdio.read_stdout();
    deadline::poll("the stream to go on", ORDINARY, || {
        (task.stdio.stderr().len() > before).then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn unread_stdout_does_not_hold_up_kill(daemon: &Daemon) {
    let task = Container::new(daemon)
        .unread_stdout()
        .sh("while :; do cat /bin/busybox; done")
        .start();
    task.kill(SIGKILL);
    assert_eq!(task.waiter().exit(Duration::from_secs(20)).status, 137);
    task.delete();
}

fn grandchild_that_holds_stdout(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let exec = task
        .exec(["sh", "-c", "sleep 1000 & echo started; exit 6"])
        .start();
    let exit = exec.waiter().exit(Duration::from_secs(10));
    assert_eq!(exit.status, 6);
    daemon
        .events()
        .wait_for(task.id(), &format!("exit:{}", exec.exec_id), ORDINARY);
    exec.delete();
    assert_eq!(
        String::from_utf8_lossy(&exec.stdio.stdout().to_end(ORDINARY)),
        "started\n"
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn detach_and_attach_again(daemon: &Daemon) {
    let mut task = Container::new(daemon).stdin().args(["cat"]).start();
    task.stdio.write(b"before\n");
    task.stdio.stdout().wait_for("before\n");
    task.stdio.detach();
    task.stdio.attach();
    task.stdio.write(b"after\n");
    task.stdio.stdout().wait_for("after\n");
    task.close_stdin();
    assert_eq!(task.wait().status, 0);
    task.delete();
    assert_eq!(
        String::from_utf8_lossy(&task.stdio.stdout().to_end(LONG)),
        "after\n"
    );
}

fn null_streams(daemon: &Daemon) {
    let ran = Container::new(daemon)
        .run_flag("--null-io")
        .sh("cat; echo lost; exit 3")
        .run();
    ran.expect_exit(3).expect_stdout("");
}
