//! The agent in a real VM, from boot to power-off.

mod support;

use bulkhead_agent_protocol::message::*;
use support::boot;

#[tokio::test]
async fn a_container_runs_and_the_vm_powers_off() {
    let Some(mut vm) = boot().await else { return };
    eprintln!("HELLO after {:?}: {:?}", vm.booted_after, vm.hello);
    let hello = vm.container("hello").sh("echo out; echo err >&2; exit 7");
    let streams = vm.run(&hello).await;
    let stderr = tokio::spawn(support::read_all(streams.stderr.unwrap()));
    assert_eq!(support::read_all(streams.stdout).await, "out\n");
    assert_eq!(stderr.await.unwrap(), "err\n");
    let exited = vm.exit().await;
    assert_eq!(
        (exited.container_id.as_str(), exited.exec_id.as_str()),
        ("hello", "")
    );
    assert_eq!(exited.status, Some(ExitStatus::Code(7)));
    vm.delete("hello", "").await;
    vm.done(Body::Shutdown(Shutdown {})).await;
    assert!(vm.gone().await.success());
}
