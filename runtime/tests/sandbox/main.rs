//! Sandboxes through the facade: real VMs with the real agent, and whatever is left on the host.
//!
//! Needs root, QEMU, a guest kernel, busybox and the workspace's programs (`cargo build --workspace`);
//! without them each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // What is unwrapped is what is tested.

mod block_devices;
mod death;
mod devices;
mod disks;
mod loop_device;
mod measure;
mod network;
mod processes;
mod rig;
mod volumes;

use std::time::Duration;

use bulkhead_runtime::sandbox::{ExitStatus, Sandbox};
use rig::{Rig, within};

#[tokio::test]
async fn a_container_runs_in_its_own_kernel_and_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let command = "busybox uname -r; busybox hostname; exit 7";
    let (status, output) = running.run(rig.container("s1", command, |_| {})).await;
    assert_eq!(status, ExitStatus::Code(7), "{output}");
    let (guest, host) = (
        output.lines().next().unwrap(),
        nix::sys::utsname::uname().unwrap(),
    );
    assert_ne!(Some(guest), host.release().to_str());
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn many_at_once_all_come_up() {
    const MANY: usize = 6;
    let Some(rig) = Rig::new() else { return };
    let launches: Vec<_> = (0..MANY)
        .map(|n| tokio::spawn(Sandbox::launch(rig.request(&format!("s{n}")))))
        .collect();
    let mut sandboxes = Vec::new();
    for launch in launches {
        sandboxes.push(within(launch).await.unwrap().unwrap());
    }
    for (sandbox, _events) in &sandboxes {
        within(sandbox.shutdown(Duration::from_secs(20))).await.unwrap();
    }
    rig.assert_clean();
}
