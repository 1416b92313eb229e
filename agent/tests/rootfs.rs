//! The agent in a real VM: what images and specs do to a container's root, its devices and its surroundings.

mod support;

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use bulkhead_agent_protocol::message::*;
use serde_json::{Value, json};
use support::{Container, Vm, boot};

/// Runs a container to its end and returns what it printed.
async fn output(vm: &mut Vm, container: Container) -> String {
    let streams = vm.run(&container).await;
    let output = streams.finish().await;
    assert_eq!(vm.exit().await.container_id, container.id);
    vm.delete(&container.id, "").await;
    output
}

fn rootfs(vm: &Vm, id: &str) -> PathBuf {
    vm.directory.path().join("share").join(id).join("rootfs")
}

/// The container without the mounts at and below `place`.
fn without_mounts(mut container: Container, place: &str) -> Container {
    let is_below = |mount: &Value| {
        mount["destination"]
            .as_str()
            .is_some_and(|path| path.starts_with(place))
    };
    if let Some(mounts) = container.spec["mounts"].as_array_mut() {
        mounts.retain(|mount| !is_below(mount));
    }
    container
}

#[tokio::test]
async fn an_image_may_have_a_dev_of_its_own() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("c")
        .sh("readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; cat /dev/kept; stat -c '%F %t:%T' /dev/zero; echo x >/dev/null");
    let dev = rootfs(&vm, "c").join("dev");
    std::fs::write(dev.join("kept"), "kept\n").unwrap();
    std::fs::write(dev.join("ptmx"), "").unwrap();
    symlink("/elsewhere", dev.join("fd")).unwrap();
    let text = output(&mut vm, without_mounts(container, "/dev")).await;
    assert_eq!(
        text,
        "/elsewhere\n/proc/self/fd/0\npts/ptmx\nkept\ncharacter special file 1:5\n"
    );
}

#[tokio::test]
async fn links_of_the_image_lead_nowhere_outside() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("c").sh("ls /inside/dev; ls /data; touch /data/new");
    let root = rootfs(&vm, "c");
    std::fs::remove_dir(root.join("dev")).unwrap();
    symlink("/inside/dev", root.join("dev")).unwrap();
    std::fs::create_dir_all(root.join("inside/dev")).unwrap();
    // Up and out of the container's root, into the share's own directory of this container.
    symlink("../../../../mounts", root.join("data")).unwrap();
    let mounts = vm.directory.path().join("share/c/mounts");
    std::fs::create_dir_all(mounts.join("0")).unwrap();
    std::fs::write(mounts.join("0/content"), "").unwrap();
    let container = container.mount(json!({"destination": "/data", "type": "bind",
        "source": "/run/share/c/mounts/0", "options": ["rbind"]}));
    let text = output(&mut vm, container).await;
    assert!(text.contains("null\n") && text.contains("ptmx\n"), "{text}");
    assert!(text.ends_with("content\n"), "{text}");
    assert!(mounts.join("0/new").exists() && root.join("mounts").is_dir());
    // What programs trust by its name is not mounted behind a link at all.
    let container = vm.container("p");
    let root = rootfs(&vm, "p");
    std::fs::remove_dir(root.join("proc")).unwrap();
    symlink("/tmp", root.join("proc")).unwrap();
    let failed = vm.create(&container).await.err().unwrap();
    assert_eq!(
        (failed.kind(), failed.message.as_str()),
        (
            FailureKind::Mount,
            r#"error mounting "proc" to rootfs at "/proc": filesystem "proc" must be mounted on ordinary directory"#
        )
    );
}

#[tokio::test]
async fn missing_mount_points_are_made() {
    let Some(mut vm) = boot().await else { return };
    let mounts = vm.directory.path().join("share/c/mounts");
    std::fs::create_dir_all(mounts.join("1")).unwrap();
    std::fs::write(mounts.join("0"), "file\n").unwrap();
    std::fs::write(mounts.join("1/x"), "").unwrap();
    let bind = |destination: &str, index: usize, options: &[&str]| {
        let source = format!("/run/share/c/mounts/{index}");
        json!({"destination": destination, "type": "bind", "source": source, "options": options})
    };
    let container = vm
        .container("c")
        .sh("cat /a/b/file; ls /a/c/d; touch /a/c/d/y 2>&1; rm /a/c/d/x; stat -fc %T /a/t; \
             grep -c ' /a/c/d .*nosuid' /proc/self/mountinfo")
        .mount(bind("/a/b/file", 0, &["bind", "ro"]))
        .mount(bind("/a/c/d", 1, &["rbind", "nosuid", "rro"]))
        .mount(json!({"destination": "/a/t", "type": "tmpfs", "source": "tmpfs", "options": ["rprivate", "rnoexec"]}));
    assert_eq!(
        output(&mut vm, container).await,
        "file\nx\ntouch: /a/c/d/y: Read-only file system\ntmpfs\n1\n"
    );
    assert!(mounts.join("1/x").exists());
}

#[tokio::test]
async fn devices_are_those_of_the_rules() {
    let Some(mut vm) = boot().await else { return };
    // The last is the VM's own console.
    let script = "for d in '1 3' '1 11' '5 1'; do mknod /tmp/d c $d; (: > /tmp/d) 2>/dev/null && echo $d; rm /tmp/d; done; \
                  stat -c %a:%u:%t:%T /dev/net/mine 2>/dev/null; echo end";
    let rule = |allow: bool, major: Value, minor: Value| json!({"allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm"});
    let everything = |allow: bool| json!({"allow": allow, "access": "rwm"});
    let usual = json!([
        everything(false),
        rule(true, json!(1), json!(3)),
        rule(true, json!(5), json!(1))
    ]);
    let wider = json!([
        everything(false),
        rule(true, json!(1), json!(11)),
        rule(true, json!(5), json!(1))
    ]);
    let narrower = json!([everything(true), rule(false, json!(1), json!(11))]);
    let tmp = json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"});
    for (id, rules, expected) in [
        ("usual", usual, "1 3\nend\n"),
        ("wider", wider, "1 3\n1 11\nend\n"),
        ("narrower", narrower, "1 3\n5 1\nend\n"),
    ] {
        let container = vm
            .container(id)
            .sh(script)
            .mount(tmp.clone())
            .with("/linux/resources", json!({"devices": rules}));
        assert_eq!(output(&mut vm, container).await, expected, "{id}");
    }
    let device =
        json!([{"path": "/dev/net/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7}]);
    let container = vm
        .container("own")
        .sh(script)
        .mount(tmp)
        .with("/linux/devices", device);
    assert_eq!(output(&mut vm, container).await, "1 3\n640:7:1:5\nend\n");
}

#[tokio::test]
async fn filters_compare_masked_arguments_as_runc_does() {
    let Some(mut vm) = boot().await else { return };
    // As docker has it: what clone may do depends on its flags under a mask. `value` is the mask.
    let filter = |wanted: u64| {
        let argument =
            json!({"index": 0, "value": 0x7e02_0000, "valueTwo": wanted, "op": "SCMP_CMP_MASKED_EQ"});
        let rule = json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
            "args": [argument]});
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]})
    };
    for (id, wanted, expected) in [("plain", 0, ""), ("namespaces", 0x0400_0000, "forked\n")] {
        let container = vm.container(id).sh("(echo forked) 2>/dev/null; exit 0");
        let container = container.with("/linux/seccomp", filter(wanted));
        assert_eq!(output(&mut vm, container).await, expected, "{id}");
    }
}

#[tokio::test]
async fn scheduling_clocks_and_domain_are_the_specs() {
    let Some(mut vm) = boot().await else { return };
    let mut container = vm
        .container("c")
        .sh("cut -d ' ' -f 19,41 /proc/self/stat; cut -d . -f 1 /proc/uptime; cat /proc/sys/kernel/domainname")
        .with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}))
        .with("/domainname", json!("example"))
        .with("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000}}));
    let namespaces = container.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "time"}));
    let text = output(&mut vm, container).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[2]), ("5 3", "example"), "{text}");
    assert!(lines[1].parse::<u64>().unwrap() >= 1_000_000, "{text}");
}
