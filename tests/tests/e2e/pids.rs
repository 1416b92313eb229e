//! Containers in another container's PID namespace: `shareProcessNamespace`, and debug containers.

use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;
use serde_json::json;

pub const CASES: &[Case] = &[
    case("shares_processes_with_another", shares_processes_with_another).core(),
    case("ends_with_the_namespaces_owner", ends_with_the_namespaces_owner),
    case("killed_alone", killed_alone),
    case("ended_owner_is_refused", ended_owner_is_refused),
    case("stranger_is_refused", stranger_is_refused).vm_only(),
];

/// The first container of a sandbox.
fn owner(daemon: &Daemon) -> Task<'_> {
    let id = daemon.new_id("owner");
    let container = Container::new(daemon).named(&id).args(["sleep", "1111"]);
    in_group(container, &id).start()
}

fn in_group<'d>(container: Container<'d>, first: &str) -> Container<'d> {
    let first = first.to_owned();
    container.spec(move |spec| spec["annotations"] = json!({ "io.containerd.runc.v2.group": first }))
}

/// Another of it, in the PID namespace of process `pid` of the host.
fn member<'d>(daemon: &'d Daemon, sandbox: &str, pid: u32, script: &str) -> Container<'d> {
    in_group(Container::new(daemon).sh(script), sandbox).spec(move |spec| {
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
    })
}

fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn shares_processes_with_another(daemon: &Daemon) {
    let owner = owner(daemon);
    let script = "test $$ = 1 && echo first; tr '\\0' ' ' < /proc/1/cmdline; sleep 1000";
    let member = member(daemon, owner.id(), owner.pid(), script).start();
    assert_ne!(member.pid(), owner.pid());
    let seen = "tr '\\0' ' ' < /proc/1/cmdline; ps | grep -c '[s]leep 1000'";
    // Each sees the other's.
    for task in [&member, &owner] {
        task.sh(seen).expect_exit(0).expect_stdout("sleep 1111 1\n");
    }
    member.kill(SIGKILL);
    member.finish().expect_exit(137).expect_stdout("sleep 1111 ");
    owner.sh("ps | grep -c '[s]leep 1000'").expect_stdout("0\n");
    end(&owner);
}

fn ends_with_the_namespaces_owner(daemon: &Daemon) {
    let owner = owner(daemon);
    let member = member(daemon, owner.id(), owner.pid(), "sleep 1000").start();
    owner.kill(SIGKILL);
    member.finish().expect_exit(137);
    owner.finish().expect_exit(137);
}

fn killed_alone(daemon: &Daemon) {
    let owner = owner(daemon);
    let member = member(daemon, owner.id(), owner.pid(), "sleep 2000 & sleep 1000").start();
    member.kill_all(SIGKILL);
    member.finish().expect_exit(137);
    owner
        .sh("ps | grep -c '[s]leep [12]000'; echo alive")
        .expect_exit(0)
        .expect_stdout("0\nalive\n");
    end(&owner);
}

fn ended_owner_is_refused(daemon: &Daemon) {
    let first = owner(daemon);
    let second = member(daemon, first.id(), first.pid(), "sleep 1000").start();
    end(&second);
    let status = member(daemon, first.id(), second.pid(), "true")
        .try_create()
        .err()
        .expect("Create fails");
    assert!(status.message().contains("pid"), "{status}");
    end(&first);
}

fn stranger_is_refused(daemon: &Daemon) {
    let first = owner(daemon);
    let status = member(daemon, first.id(), 1, "true")
        .try_create()
        .err()
        .expect("Create fails");
    let words = "process 1 is of no running container of this sandbox";
    assert!(status.message().contains(words), "{status}");
    end(&first);
}
