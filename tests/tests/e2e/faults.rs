//! Something dies that should not: every end is reported, nothing is left, and others are unharmed.

use std::thread;
use std::time::Instant;

use bulkhead_tests::deadline::{LONG, ORDINARY};
use bulkhead_tests::events::Kind;
use bulkhead_tests::host::HostProcess;
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case};
use containerd_client::tonic::Code;
use containerd_client::types::v1::Status as RunState;
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("shim_killed", shim_killed).core(),
    case("vmm_killed", vmm_killed).vm_only().core(),
    case("vmm_parent_killed", vmm_parent_killed).vm_only(),
    case("file_server_killed", file_server_killed).vm_only(),
    case("vmm_killed_while_created", vmm_killed_while_created).vm_only(),
    case("vmm_killed_under_load", vmm_killed_under_load).vm_only(),
    case("anchor_killed", anchor_killed).vm_only(),
    case("guest_panics", guest_panics).vm_only(),
    // containerd 2.4 leaves the shim of runc behind now and then.
    case("cancelled_create", cancelled_create).vm_only(),
    case("neighbours_live_on", neighbours_live_on),
    case("ten_at_once", ten_at_once),
];

fn sleeper(daemon: &Daemon) -> Task<'_> {
    Container::new(daemon).args(["sleep", "1000"]).start()
}

fn shim_killed(daemon: &Daemon) {
    let task = sleeper(daemon);
    let shim = HostProcess::shim_of(daemon, task.id());
    let helpers = shim.descendants();
    shim.kill();
    helpers.iter().for_each(HostProcess::expect_gone);
    let event = daemon.events().wait_for(task.id(), "exit", ORDINARY);
    assert!(matches!(event.kind, Kind::Exit { status: 137, .. }), "{event:?}");
    daemon.events().wait_for(task.id(), "delete", ORDINARY);
    assert_eq!(task.try_state().unwrap_err().code(), Code::NotFound);
}

/// Kills that descendant of the shim, and sees every process of the task end with 137.
fn all_end_when_killed(daemon: &Daemon, victim: &str) {
    let task = sleeper(daemon);
    let exec = task.exec(["sleep", "1000"]).id("e").start();
    let (init_end, exec_end) = (task.waiter(), exec.waiter());
    let shim = HostProcess::shim_of(daemon, task.id());
    shim.descendant(victim).kill();
    assert_eq!(init_end.exit(ORDINARY).status, 137);
    assert_eq!(exec_end.exit(ORDINARY).status, 137);
    assert_eq!(task.run_state(), RunState::Stopped);
    assert!(
        task.exec(["true"])
            .try_create()
            .and_then(|exec| exec.try_start())
            .is_err(),
        "exec in a dead VM"
    );
    exec.delete();
    assert_eq!(task.delete().status, 137);
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

fn vmm_killed(daemon: &Daemon) {
    all_end_when_killed(daemon, "qemu-system");
}

fn vmm_parent_killed(daemon: &Daemon) {
    all_end_when_killed(daemon, "bulkhead-vmm");
}

fn file_server_killed(daemon: &Daemon) {
    all_end_when_killed(daemon, "bulkhead-fs");
}

fn vmm_killed_while_created(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).create();
    let end = task.waiter();
    HostProcess::shim_of(daemon, task.id())
        .descendant("qemu-system")
        .kill();
    assert_eq!(end.exit(ORDINARY).status, 137);
    assert!(task.try_start().is_err(), "start in a dead VM");
    task.delete();
}

fn vmm_killed_under_load(daemon: &Daemon) {
    let task = Container::new(daemon)
        .sh("while :; do cat /bin/busybox; done")
        .start();
    let busy = task
        .exec(["sh", "-c", "while :; do cp /bin/busybox /tmp/x; done"])
        .start();
    HostProcess::shim_of(daemon, task.id())
        .descendant("qemu-system")
        .kill();
    assert_eq!(task.waiter().exit(ORDINARY).status, 137);
    assert_eq!(busy.waiter().exit(ORDINARY).status, 137);
    busy.delete();
    task.finish().expect_exit(137);
}

/// The anchor only stands for the container on the host; but containerd's pid must tell the truth.
fn anchor_killed(daemon: &Daemon) {
    let task = sleeper(daemon);
    let anchors = HostProcess::all();
    let anchor = anchors
        .iter()
        .find(|process| process.pid == task.pid())
        .expect("the pid is a host process");
    anchor.kill();
    assert_eq!(task.waiter().exit(ORDINARY).status, 137);
    task.delete();
}

fn guest_panics(daemon: &Daemon) {
    let task = Container::new(daemon)
        .flag("--privileged")
        .args(["sleep", "1000"])
        .start();
    // The kernel has no key for it, or has: either way the VM's fate decides the task's.
    let exec = task.exec(["sh", "-c", "echo c > /proc/sysrq-trigger"]).create();
    let is_alive = exec.try_start().is_ok() && exec.wait().status != 137;
    if is_alive {
        task.kill(SIGKILL);
    }
    assert_eq!(task.waiter().exit(ORDINARY).status, 137);
    task.delete();
}

/// A client that loses patience at any point of Create: what was begun is undone.
fn cancelled_create(daemon: &Daemon) {
    let begin = Instant::now();
    let task = sleeper(daemon);
    let whole = begin.elapsed();
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    for part in [1, 4, 8, 11, 13, 14, 15] {
        let container = Container::new(daemon).args(["sleep", "1000"]);
        drop(container.create_within(whole * part / 16));
    }
    Container::new(daemon)
        .sh("echo fine")
        .run()
        .expect_exit(0)
        .expect_stdout("fine\n");
}

fn neighbours_live_on(daemon: &Daemon) {
    let neighbour = Container::new(daemon)
        .sh("i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done")
        .start();
    neighbour.stdio.stdout().wait_for("0\n");
    let victim = sleeper(daemon);
    HostProcess::shim_of(daemon, victim.id()).kill();
    daemon.events().wait_for(victim.id(), "delete", ORDINARY);
    neighbour.sh("echo alive").expect_exit(0).expect_stdout("alive\n");
    neighbour.kill(SIGKILL);
    let finished = neighbour.finish();
    finished.expect_exit(137);
    let ticks: Vec<usize> = finished
        .text()
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert!(
        ticks.iter().copied().eq(0..ticks.len()),
        "a tick is missing: {ticks:?}"
    );
}

fn ten_at_once(daemon: &Daemon) {
    thread::scope(|scope| {
        for code in 0..10 {
            scope.spawn(move || {
                let task = Container::new(daemon)
                    .sh(&format!("echo {code}; exit {code}"))
                    .start();
                assert_eq!(task.waiter().exit(LONG).status, code);
                task.finish()
                    .expect_exit(code)
                    .expect_stdout(&format!("{code}\n"));
            });
        }
    });
}
