//! What the container sees of the host's files, and what it cannot do to them.

use std::fs;

use bulkhead_runtime::rootfs::RootfsMount;
use bulkhead_runtime::sandbox::ExitStatus;
use serde_json::json;

use crate::rig::Rig;

#[tokio::test]
async fn read_only_holds_even_against_the_guests_root() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let (ro, rw) = (rig.base.path().join("ro"), rig.base.path().join("rw"));
    for volume in [&ro, &rw] {
        fs::create_dir(volume).unwrap();
        fs::write(volume.join("file"), "host").unwrap();
    }
    // All that root in the guest can try: remount, and write past the mount, into the share itself.
    let command = "cat=busybox; busybox cat /data/ro/file /data/rw/file; \
        busybox mount -o remount,rw,bind /data/ro; \
        echo guest > /data/ro/file; echo guest > /data/ro/new; echo guest > /new; \
        echo guest > /data/rw/file; exit 0";
    let request = rig.container("s1", command, |config| {
        config["root"]["readonly"] = json!(true);
        for set in ["bounding", "effective", "permitted"] {
            config["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
        }
        let mounts = config["mounts"].as_array_mut().unwrap();
        for (name, volume) in [("ro", &ro), ("rw", &rw)] {
            mounts.push(json!({
                "destination": format!("/data/{name}"), "type": "bind", "source": volume,
                "options": ["rbind", name],
            }));
        }
    });
    for name in ["ro", "rw"] {
        fs::create_dir_all(request.bundle.join("rootfs/data").join(name)).unwrap();
    }
    let rootfs = request.bundle.join("rootfs");
    let (status, output) = running.run(request).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    assert!(output.starts_with("hosthost"), "{output}");
    assert_eq!(fs::read_to_string(ro.join("file")).unwrap(), "host", "{output}");
    assert!(!ro.join("new").exists() && !rootfs.join("new").exists());
    assert_eq!(
        fs::read_to_string(rw.join("file")).unwrap(),
        "guest\n",
        "{output}"
    );
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_single_file_is_the_hosts_file() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let file = rig.base.path().join("hosts");
    fs::write(&file, "one").unwrap();
    let command = "busybox cat /data/file; echo two > /data/file";
    let request = rig.container("s1", command, |config| {
        let mount = json!({"destination": "/data/file", "type": "bind", "source": file, "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    let (status, output) = running.run(request).await;
    assert_eq!((status, output.as_str()), (ExitStatus::Code(0), "one"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "two\n");
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn an_overlay_is_mounted_in_the_bundle_and_goes_with_the_container() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let mut request = rig.container("s1", "echo new > /new; busybox ls /", |_| {});
    let layer = rig.base.path().join("layer");
    fs::rename(request.bundle.join("rootfs"), &layer).unwrap();
    let snapshot = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["upper", "work"] {
        fs::create_dir(snapshot.path().join(name)).unwrap();
    }
    fs::create_dir(request.bundle.join("rootfs")).unwrap();
    request.rootfs = vec![RootfsMount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options: vec![
            format!("workdir={}", snapshot.path().join("work").display()),
            format!("upperdir={}", snapshot.path().join("upper").display()),
            format!("lowerdir={}", layer.display()),
        ],
        ..RootfsMount::default()
    }];
    let (status, output) = running.run(request).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    assert!(output.contains("new"), "{output}");
    assert_eq!(
        fs::read_to_string(snapshot.path().join("upper/new")).unwrap(),
        "new\n"
    );
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_volume_that_is_missing_is_the_requests_fault() {
    let Some(rig) = Rig::new() else { return };
    let running = rig.launch("s1").await;
    let request = rig.container("s1", "busybox true", |config| {
        let mount =
            json!({"destination": "/data", "type": "bind", "source": "/no/such", "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    let error = running.sandbox.create_container(request).await.unwrap_err();
    assert_eq!(
        error.kind(),
        bulkhead_runtime::sandbox::ErrorKind::InvalidArgument
    );
    assert!(
        error
            .to_string()
            .starts_with("mount for /data: cannot open /no/such: "),
        "{error}"
    );
    running.end().await;
    rig.assert_clean();
}
