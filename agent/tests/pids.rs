//! The agent in a real VM: containers that share a PID namespace.

mod support;

use bulkhead_agent_protocol::message::{ExitStatus, FailureKind};
use support::{Vm, boot};

const KILLED: Option<ExitStatus> = Some(ExitStatus::Signal(9));

/// A running container that owns a PID namespace.
async fn owner(vm: &Vm) -> support::Container {
    let owner = vm.container("owner").args(&["sleep", "1111"]);
    vm.run(&owner).await;
    owner
}

#[tokio::test]
async fn a_member_sees_the_owners_processes_and_is_not_their_first() {
    let Some(mut vm) = boot().await else { return };
    owner(&vm).await;
    let script = "test $$ != 1; echo $?; cat /proc/1/cmdline | tr '\\0' ' '; echo; read line";
    let member = vm.container("member").sh(script).with_pids_of("owner");
    let mut streams = vm.run(&member).await;
    streams.hear("0\nsleep 1111").await;
    let exec = vm.exec(&member, "e", &["cat", "/proc/1/cmdline"]).await.unwrap();
    assert_eq!(exec.finish().await, "sleep\x001111\0");
    assert_eq!(vm.exit().await.exec_id, "e");
    vm.kill("member", "", 9, true).await;
    let exited = vm.exit().await;
    assert_eq!((exited.container_id.as_str(), exited.status), ("member", KILLED));
    vm.delete("member", "").await;
    // The owner is as it was, and can be joined again.
    let again = vm.container("again").args(&["true"]).with_pids_of("owner");
    let _streams = vm.run(&again).await;
    let exited = vm.exit().await;
    assert_eq!(
        (exited.container_id.as_str(), exited.status),
        ("again", Some(ExitStatus::Code(0)))
    );
    vm.delete("again", "").await;
}

#[tokio::test]
async fn members_end_with_the_owner_whether_started_or_not() {
    let Some(mut vm) = boot().await else { return };
    owner(&vm).await;
    let started = vm
        .container("started")
        .args(&["sleep", "1000"])
        .with_pids_of("owner");
    let _started = vm.run(&started).await;
    // Through a member is as good as through the owner.
    let created = vm
        .container("created")
        .args(&["sleep", "1000"])
        .with_pids_of("started");
    let _created = vm.create(&created).await.unwrap();
    vm.kill("owner", "", 9, false).await;
    let mut ended = Vec::new();
    for _ in 0..3 {
        let exited = vm.exit().await;
        assert_eq!(exited.status, KILLED, "{}", exited.container_id);
        ended.push(exited.container_id);
    }
    // The kernel ends the owner when the others have been reaped.
    assert_eq!(ended.pop().as_deref(), Some("owner"));
    let late = vm.container("late").args(&["true"]).with_pids_of("owner");
    let failed = vm.create(&late).await.err().unwrap();
    assert_eq!(
        (failed.kind(), failed.message.as_str()),
        (
            FailureKind::FailedPrecondition,
            "container owner has ended, and its PID namespace with it"
        )
    );
    for id in ["created", "started", "owner"] {
        vm.delete(id, "").await;
    }
    let stranger = vm.container("stranger").args(&["true"]).with_pids_of("nobody");
    let failed = vm.create(&stranger).await.err().unwrap();
    assert_eq!(failed.kind(), FailureKind::NotFound);
}

#[tokio::test]
async fn a_member_leaves_nothing_behind_in_the_namespace() {
    let Some(mut vm) = boot().await else { return };
    let owner = owner(&vm).await;
    // Its orphans go to the owner's init, and end with the member all the same.
    let script = "(sleep 2222 & ) ; echo ready; read line";
    let member = vm.container("member").sh(script).with_pids_of("owner");
    let mut streams = vm.run(&member).await;
    streams.hear("ready").await;
    vm.kill("member", "", 9, false).await;
    assert_eq!(vm.exit().await.status, KILLED);
    vm.delete("member", "").await;
    let script = "ps | grep -c '[s]leep 2222'";
    let exec = vm.exec(&owner, "e", &["sh", "-c", script]).await.unwrap();
    assert_eq!(exec.finish().await, "0\n");
}
