//! Templates with real VMs and the real agent: saved, restored, and everything that can be wrong with one.
//!
//! Needs what `tests/sandbox` needs; without it each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // What is unwrapped is what is tested.

#[path = "../sandbox/rig.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod rig;

use bulkhead_oci::sizing::Size;
use bulkhead_runtime::sandbox::{ExitStatus, Origin};
use bulkhead_runtime::template;
use bulkhead_runtime::vmm::qemu::Qemu;
use rig::{Rig, within};

const SIZE: Size = Size {
    vcpus: 1,
    memory_mib: 256,
};

#[tokio::test]
async fn a_restored_sandbox_runs_a_container_and_leaves_nothing() {
    let Some(rig) = templates() else { return };
    let built = within(template::build(&rig.config, &Qemu::new(&rig.config), SIZE))
        .await
        .unwrap();
    println!("built in {:?}", built.took);
    for round in 0..3 {
        let id = format!("s{round}");
        let mut running = rig.launch(&id).await;
        println!("{:?}", running.sandbox.timings());
        assert_eq!(running.sandbox.timings().origin, Origin::Restored);
        let command = "busybox hostname; busybox ls /bin; exit 7";
        let (status, output) = running.run(rig.container(&id, command, |_| {})).await;
        assert_eq!(status, ExitStatus::Code(7), "{output}");
        assert_eq!(output.lines().next().unwrap(), id);
        running.end().await;
    }
    rig.assert_clean();
}

/// A rig whose sandboxes are restored where they can be.
fn templates() -> Option<Rig> {
    let mut rig = Rig::new()?;
    rig.config.templates = true;
    rig.config.template_dir = rig.base.path().join("templates");
    Some(rig)
}
