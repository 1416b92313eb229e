//! What a restored sandbox is for.

use std::fs;

use bulkhead_runtime::sandbox::{ExitStatus, Origin};
use bulkhead_runtime::state::{self, SandboxState};

use crate::rig::within;
use crate::{build, path, rig, rig_with_template, wait_for_template};

#[tokio::test]
async fn a_restored_sandbox_runs_a_container_and_leaves_nothing() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    for id in ["s1", "s2"] {
        let mut running = rig.launch(id).await;
        assert_eq!(running.sandbox.timings().origin, Origin::Restored);
        let told = SandboxState::read(&rig.config.state_dir.join("test").join(id));
        assert_eq!(told.unwrap().unwrap().origin, state::Origin::Restored);
        let command = "busybox hostname; busybox test -e /bin/busybox && exit 7";
        let (status, output) = running.run(rig.container(id, command, |_| {})).await;
        assert_eq!(status, ExitStatus::Code(7), "{output}");
        assert_eq!(output.trim(), id);
        running.end().await;
    }
    rig.assert_clean();
}

#[tokio::test]
async fn the_init_that_was_saved_is_for_the_first_container_it_fits() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let mut running = rig.launch("s1").await;
    assert_eq!(running.sandbox.timings().origin, Origin::Restored);
    // Its own pid tells a container that sees its sandbox's processes from one that does not.
    let command = "busybox hostname; echo $$; busybox ls /proc | busybox grep -c '^[0-9]'";
    let without_pids = |config: &mut serde_json::Value| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    };
    let (status, output) = running.run(rig.container("c1", command, without_pids)).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    assert!(
        output.starts_with("s1\n") && !output.contains("\n1\n"),
        "{output}"
    );
    for id in ["c2", "c3"] {
        let (status, output) = running.run(rig.container(id, command, |_| {})).await;
        assert_eq!(status, ExitStatus::Code(0), "{output}");
        // The shell, and the two of its pipe.
        assert_eq!(output, "s1\n1\n3\n");
    }
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_template_can_go_or_be_replaced_while_vms_of_it_live() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let mut first = rig.launch("s1").await;
    build(&rig).await.unwrap();
    let mut second = rig.launch("s2").await;
    fs::remove_file(path(&rig).await).unwrap();
    for (running, id) in [(&mut first, "s1"), (&mut second, "s2")] {
        assert_eq!(running.sandbox.timings().origin, Origin::Restored);
        let (status, output) = running.run(rig.container(id, "busybox ls /bin", |_| {})).await;
        assert_eq!(status, ExitStatus::Code(0), "{output}");
    }
    first.end().await;
    second.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn the_first_cold_boot_of_a_class_has_its_template_made() {
    let Some(rig) = rig() else { return };
    let first = rig.launch("s1").await;
    assert_eq!(first.sandbox.timings().origin, Origin::Booted);
    wait_for_template(&rig).await;
    let second = rig.launch("s2").await;
    assert_eq!(second.sandbox.timings().origin, Origin::Restored);
    first.end().await;
    second.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_node_can_do_without() {
    let Some(mut rig) = rig_with_template().await else {
        return;
    };
    rig.config.templates = false;
    let running = rig.launch("s1").await;
    assert_eq!(running.sandbox.timings().origin, Origin::Booted);
    within(running.sandbox.shutdown(std::time::Duration::from_secs(20)))
        .await
        .unwrap();
    rig.assert_clean();
}
