//! Block devices of the host that a container's spec lists. Loop devices stand in for all.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bulkhead_runtime::sandbox::{ContainerRequest, ErrorKind, ExitStatus};
use serde_json::json;

use crate::loop_device::Loop;
use crate::processes::process;
use crate::rig::{OUTPUT, Rig, read, within};

const BYTES: u64 = 4 << 20;
/// What stays of the device whose end is cut off.
const REST_BYTES: u64 = 1 << 20;

fn image(rig: &Rig, name: &str, begins_with: &str) -> PathBuf {
    let path = rig.base.path().join(name);
    let file = File::create(&path).unwrap();
    file.set_len(BYTES).unwrap();
    file.write_all_at(begins_with.as_bytes(), 0).unwrap();
    path
}

fn begin_of(image: &PathBuf, length: usize) -> String {
    let mut begin = vec![0; length];
    File::open(image).unwrap().read_exact(&mut begin).unwrap();
    String::from_utf8(begin).unwrap()
}

/// A container that sees the device as /dev/xvda, and may do this with it.
fn with_device(rig: &Rig, id: &str, command: &str, device: &Loop, access: &str) -> ContainerRequest {
    let (major, minor) = device.number();
    rig.container(id, command, |config| {
        config["linux"]["devices"] = json!([{"path": "/dev/xvda", "type": "b", "major": major, "minor": minor,
            "fileMode": 0o640, "uid": 7, "gid": 8}]);
        config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": major, "minor": minor, "access": access}]});
        let capabilities = json!(["CAP_DAC_OVERRIDE", "CAP_MKNOD"]);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = capabilities.clone();
        }
    })
}

#[tokio::test]
async fn what_is_written_to_a_device_is_on_the_hosts() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "from the host\n");
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let command = "busybox stat -c '%F %a %u %g' /dev/xvda; busybox head -c 14 /dev/xvda; \
        busybox blockdev --getsize64 /dev/xvda; echo from a guest > /dev/xvda; \
        busybox mknod /tmp/root b 8 0; busybox head -c 1 /tmp/root";
    let (_, output) = running
        .run(with_device(&rig, "s1", command, &device, "rwm"))
        .await;
    let expected = format!("block special file 640 7 8\nfrom the host\n{BYTES}\n");
    assert!(output.starts_with(&expected), "{output}");
    assert_eq!(begin_of(&image, 13), "from a guest\n");
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn without_a_rule_for_writing_nothing_writes() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "kept\n");
    let (Some(writable), Some(protected)) = (Loop::of(&image, false), Loop::of(&image, true)) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let command = "busybox head -c 5 /dev/xvda; echo lost > /dev/xvda && echo written; \
        busybox cat /sys/block/sd*/ro";
    let command = format!("busybox mount -t sysfs sysfs /sys; {command}");
    for (id, device, access) in [("s1", &writable, "rm"), ("c2", &protected, "rwm")] {
        let (_, output) = running.run(with_device(&rig, id, &command, device, access)).await;
        assert!(output.starts_with("kept\n"), "{output}");
        assert!(!output.contains("written"), "{output}");
    }
    let (_, output) = running
        .run(with_device(&rig, "c3", &command, &writable, ""))
        .await;
    assert!(output.contains("Operation not permitted"), "{output}");
    assert_eq!(begin_of(&image, 5), "kept\n");
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn containers_of_a_sandbox_share_a_device_and_it_goes_with_the_last() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "0");
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let sleeper = |id| with_device(&rig, id, "busybox sleep 1000", &device, "rwm");
    let (one, two) = (
        running.create(sleeper("s1")).await,
        running.create(sleeper("c2")).await,
    );
    for container in [&one, &two] {
        within(container.start()).await.unwrap();
    }
    let run = async |container: &bulkhead_runtime::sandbox::Container, id: &str, command| {
        let (_, streams) = within(container.exec(id, &process(command), OUTPUT))
            .await
            .unwrap();
        within(read(streams)).await
    };
    run(&one, "e1", "echo one > /dev/xvda").await;
    assert_eq!(run(&two, "e2", "busybox head -c 4 /dev/xvda").await, "one\n");
    within(one.kill("", 9, true)).await.unwrap();
    assert_eq!(running.exit_of("").await, ExitStatus::Signal(9));
    within(one.delete()).await.unwrap();
    assert_eq!(run(&two, "e3", "busybox head -c 4 /dev/xvda").await, "one\n");

    // Another VM cannot have it as long as one writes to it.
    let other = rig.launch("s2").await;
    let refused = within(other.sandbox.create_container(sleeper("c3")))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    let message = refused.to_string();
    assert!(
        message.contains("/dev/xvda") && message.contains("lock"),
        "{message}"
    );

    within(two.kill("", 9, true)).await.unwrap();
    running.exit_of("").await;
    within(two.delete()).await.unwrap();
    other.create(sleeper("c4")).await;
    other.end().await;
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn who_writes_comes_before_who_reads() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "0");
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let running = rig.launch("s1").await;
    let request = |id, access| with_device(&rig, id, "true", &device, access);
    let reader = running.create(request("s1", "r")).await;
    let refused = within(running.sandbox.create_container(request("c2", "rw")))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains("since s1 asked"), "{refused}");
    within(reader.delete()).await.unwrap();
    running.create(request("c3", "rw")).await;
    running.create(request("c4", "r")).await;
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_device_that_fails_is_its_containers_affair_alone() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "0");
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let mut running = rig.launch("s1").await;
    let command = "busybox head -c 1 /dev/xvda; busybox cat > /dev/null; busybox cat /dev/xvda > /dev/null";
    let mut request = with_device(&rig, "s1", command, &device, "rwm");
    request.stdio.stdin = true;
    let container = running.create(request).await;
    let mut streams = container.take_streams().unwrap();
    let stdin = streams.stdin.take().unwrap();
    within(container.start()).await.unwrap();
    // It has been read from, so everything is in its place.
    assert_eq!(
        within(streams.stdout.as_mut().unwrap().read())
            .await
            .unwrap()
            .unwrap(),
        "0"
    );
    OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(REST_BYTES)
        .unwrap();
    within(stdin.end()).await.unwrap();
    let output = within(read(streams)).await;
    assert!(
        output.contains("I/O error") || output.contains("Input/output error"),
        "{output}"
    );
    assert_eq!(running.exit_of("").await, ExitStatus::Code(1));
    within(container.delete()).await.unwrap();
    let (status, output) = running.run(rig.container("c2", "echo fine", |_| {})).await;
    assert_eq!((status, output.as_str()), (ExitStatus::Code(0), "fine\n"));
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_failed_create_gives_its_devices_back() {
    let Some(rig) = Rig::new() else { return };
    let image = image(&rig, "image", "0");
    let Some(device) = Loop::of(&image, false) else {
        return;
    };
    let running = rig.launch("s1").await;
    let mut request = with_device(&rig, "s1", "true", &device, "rwm");
    let no_program = vec!["/no/such/program".to_owned()];
    if let Some(process) = request.plan.guest.process_mut() {
        process.set_args(Some(no_program));
    }
    within(running.sandbox.create_container(request))
        .await
        .unwrap_err();
    // Nobody has it now, so that another may write.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&device.0)
        .unwrap();
    let locked = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole_file())).is_ok();
    assert!(locked, "it is still locked");
    running.end().await;
    rig.assert_clean();
}

fn whole_file() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}
