//! Root file systems on block devices of the host, as of a device-mapper snapshotter. Loop devices stand in for them.

use std::fs::{self, OpenOptions};

use bulkhead_runtime::sandbox::ExitStatus;

use crate::disks::{Images, on_disks, order, read_back};
use crate::loop_device::Loop;
use crate::processes::process;
use crate::rig::{OUTPUT, Rig, read, within};

/// What a test reads of its disk: more than is read before by chance.
const BIG_BYTES: u32 = 8 << 20;
/// What stays of the image whose end is cut off: its file system's own data, or most of it.
const REST_BYTES: u64 = 1 << 20;

#[tokio::test]
async fn a_container_lives_on_a_block_device() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let image = images.ext4("image", Some(&images.tree()));
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let request =
        |id, options: &[&str], command| on_disks(&rig, id, command, vec![order("ext4", &device.0, options)]);
    let (status, output) = running.run(request("s1", &[], "echo kept > /data/file")).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    let (_, output) = running
        .run(request(
            "c2",
            &["ro"],
            "busybox cat /data/file; echo x > /data/file",
        ))
        .await;
    assert!(
        output.starts_with("kept\n") && output.contains("Read-only"),
        "{output}"
    );
    running.end().await;
    drop(device);
    assert_eq!(read_back(&image, "/data/file"), "kept\n");
    rig.assert_clean();
}

#[tokio::test]
async fn a_read_only_device_is_never_written() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let image = images.ext4("image", Some(&images.tree()));
    let before = fs::read(&image).unwrap();
    let Some(device) = Loop::of(&image, true) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let request = |id, options: &[&str]| {
        let command = "echo x > /data/file && echo written";
        on_disks(&rig, id, command, vec![order("ext4", &device.0, options)])
    };
    let error = within(running.sandbox.create_container(request("c1", &[])))
        .await
        .unwrap_err();
    assert!(error.to_string().contains(device.0.to_str().unwrap()), "{error}");
    let (_, output) = running.run(request("c2", &["ro"])).await;
    assert!(
        output.contains("Read-only") && !output.contains("written"),
        "{output}"
    );
    running.end().await;
    drop(device);
    assert!(fs::read(&image).unwrap() == before, "it was written");
    rig.assert_clean();
}

#[tokio::test]
async fn a_device_that_fails_while_it_is_used_is_its_containers_affair_alone() {
    let Some(rig) = Rig::new() else { return };
    let images = Images(&rig);
    let tree = images.tree();
    let big: Vec<u8> = (0..BIG_BYTES).map(|n| (n >> 8) as u8).collect();
    fs::write(tree.join("big"), big).unwrap();
    let image = images.ext4("image", Some(&tree));
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let neighbour = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;
    within(neighbour.start()).await.unwrap();

    // What is to run on it later is in memory by then.
    let rootfs = vec![order("ext4", &device.0, &[])];
    let command = "busybox cat /bin/busybox > /dev/null; busybox sleep 1000";
    let container = running.create(on_disks(&rig, "c1", command, rootfs)).await;
    within(container.start()).await.unwrap();
    let exec = |id, command| {
        let container = container.clone();
        async move {
            let (_, streams) = within(container.exec(id, &process(command), OUTPUT))
                .await
                .unwrap();
            within(read(streams)).await
        }
    };
    assert_eq!(
        exec("before", "busybox cat /bin/busybox > /dev/null; echo fine").await,
        "fine\n"
    );
    assert_eq!(running.exit_of("before").await, ExitStatus::Code(0));
    let file = OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(REST_BYTES).unwrap();
    let output = exec("after", "busybox cat /big > /dev/null").await;
    assert!(output.contains("Input/output error"), "{output}");
    assert_eq!(running.exit_of("after").await, ExitStatus::Code(1));

    // The neighbour notices nothing, and the container can still be deleted.
    let (_, streams) = within(neighbour.exec("e1", &process("echo alive"), OUTPUT))
        .await
        .unwrap();
    assert_eq!(within(read(streams)).await, "alive\n");
    assert_eq!(running.exit_of("e1").await, ExitStatus::Code(0));
    within(container.kill("", 9, true)).await.unwrap();
    assert_eq!(running.exit_of("").await, ExitStatus::Signal(9));
    within(container.delete()).await.unwrap();
    within(neighbour.kill("", 9, true)).await.unwrap();
    assert_eq!(running.exit_of("").await, ExitStatus::Signal(9));
    within(neighbour.delete()).await.unwrap();
    running.end().await;
    rig.assert_clean();
}
