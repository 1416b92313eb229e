//! The agent in a real VM: containers and what their specs ask for.

mod support;

use bulkhead_agent_protocol::message::*;
use serde_json::json;
use support::{Vm, boot};

/// Runs a container to its end: its output, how it ended, and nothing left of it.
async fn outcome(vm: &mut Vm, container: support::Container) -> (String, ExitStatus) {
    let streams = vm.run(&container).await;
    let output = streams.finish().await;
    let exited = vm.exit().await;
    assert_eq!(exited.container_id, container.id);
    vm.delete(&container.id, "").await;
    let Some(status) = exited.status else {
        panic!("an exit without a status")
    };
    (output, status)
}

async fn output(vm: &mut Vm, container: support::Container) -> String {
    outcome(vm, container).await.0
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let Some(mut vm) = boot().await else { return };
    for code in [0, 7, 255] {
        let container = vm.container("c").sh(&format!("exit {code}"));
        assert_eq!(outcome(&mut vm, container).await.1, ExitStatus::Code(code));
    }
    for signal in [9, 15, 35] {
        let id = format!("killed-{signal}");
        // A shell that execs: PID 1 of a namespace ignores signals it has no handler for, SIGKILL apart.
        let container = vm
            .container(&id)
            .sh("sh -c 'echo ready; exec sleep 1000' & wait $!; echo $?; exit 0");
        let mut streams = vm.run(&container).await;
        streams.hear("ready").await;
        let exec = vm.exec(&container, "e", &["sleep", "1000"]).await.unwrap();
        vm.kill(&id, "e", signal, false).await;
        let exited = vm.exit().await;
        assert_eq!(
            (exited.exec_id.as_str(), exited.status),
            ("e", Some(ExitStatus::Signal(signal)))
        );
        drop(exec);
        vm.kill(&id, "", 9, false).await;
        assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
    }
}

#[tokio::test]
async fn what_cannot_start_fails_in_create_with_runcs_words_and_leaves_nothing() {
    let Some(vm) = boot().await else { return };
    let root = |container: support::Container| container;
    let cases = [
        (
            root(vm.container("a")).args(&["no-such-program"]),
            FailureKind::ExecutableNotFound,
            r#"exec: "no-such-program": executable file not found in $PATH"#,
        ),
        (
            vm.container("b").args(&["/no/such"]),
            FailureKind::ExecutableNotFound,
            r#"exec: "/no/such": stat /no/such: no such file or directory"#,
        ),
        (
            vm.container("c").args(&["/etc/not-executable"]),
            FailureKind::PermissionDenied,
            r#"exec: "/etc/not-executable": permission denied"#,
        ),
        (
            vm.container("d").with("/process/cwd", json!("/nowhere")),
            FailureKind::BadCwd,
            r#"chdir to cwd ("/nowhere") set in config.json failed: no such file or directory"#,
        ),
        (
            vm.container("e").mount(
                json!({"destination": "/x", "type": "bind", "source": "/run/share/e/none",
                "options": ["rbind"]}),
            ),
            FailureKind::Mount,
            r#"error mounting "/run/share/e/none" to rootfs at "/x": no such file or directory"#,
        ),
        (
            vm.container("f").with("/root/path", json!("/run/share/none")),
            FailureKind::Mount,
            "open the container's root /run/share/none: no such file or directory",
        ),
        (
            vm.container("g")
                .with("/linux/resources/unified", json!({"memory.nonsense": "1"})),
            FailureKind::Cgroup,
            r#"set memory.nonsense to "1": permission denied"#,
        ),
    ];
    for (container, kind, message) in cases {
        let failed = vm.create(&container).await.err().unwrap();
        assert_eq!((failed.kind(), failed.message.as_str()), (kind, message));
        // The id is free again, and so is everything that was made under it.
        let good = vm.container(&format!("{}2", container.id));
        let good = support::Container {
            id: container.id.clone(),
            ..good.args(&["true"])
        };
        vm.create(&good).await.unwrap();
        vm.delete(&container.id, "").await;
    }
}

#[tokio::test]
async fn a_program_of_no_known_format_fails_in_start() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("c").args(&["/bin/garbage"]);
    let path = vm.directory.path().join("share/c/rootfs/bin/garbage");
    std::fs::write(&path, [0; 64]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let _streams = vm.create(&container).await.unwrap();
    let failed = vm
        .fails(Body::StartContainer(StartContainer {
            container_id: "c".into(),
        }))
        .await;
    assert_eq!(
        (failed.kind(), failed.message.as_str()),
        (FailureKind::NotExecutable, "exec /bin/garbage: exec format error")
    );
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(126)));
    vm.delete("c", "").await;
}

#[tokio::test]
async fn the_process_is_what_the_spec_says() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("user")
        .sh("id -u; id -g; id -G; umask; pwd; env | sort; ulimit -n; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; echo to-file > /dev/stdout")
        .with("/process/user", json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 2000], "umask": 0o027}))
        .with("/process/cwd", json!("/tmp"))
        .with("/process/env", json!(["PATH=/bin", "A=1", "A=2", "B=x=y"]))
        .with("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 600}]))
        .with("/process/oomScoreAdj", json!(77));
    let text = output(&mut vm, container).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..5],
        ["1000", "1000", "1000 5 2000", "0027", "/tmp"],
        "{text}"
    );
    for expected in [
        "A=2",
        "B=x=y",
        "HOME=/home/user",
        "PATH=/bin",
        "512",
        "CapEff:\t0000000000000000",
    ] {
        assert!(lines.contains(&expected), "{expected} is not in\n{text}");
    }
    assert!(
        text.contains("CapBnd:\t00000000a80425fb") && text.contains("CapInh:\t0000000000000000"),
        "{text}"
    );
    assert!(
        text.contains("NoNewPrivs:\t1") && text.contains("\n77\n") && text.ends_with("to-file\n"),
        "{text}"
    );

    let container = vm
        .container("root")
        .sh("grep Cap /proc/self/status; cat /proc/self/oom_score_adj; ls /proc/self/fd; id -G");
    let text = output(&mut vm, container).await;
    assert!(
        text.contains("CapEff:\t00000000a80425fb") && text.contains("\n0\n"),
        "{text}"
    );
    // 3 is ls's own.
    assert!(text.ends_with("\n0\n1\n2\n3\n0\n"), "{text}");
    let none = vm
        .container("none")
        .sh("grep CapBnd /proc/self/status")
        .with("/process/capabilities", json!({}));
    assert_eq!(output(&mut vm, none).await, "CapBnd:\t0000000000000000\n");
}

#[tokio::test]
async fn mounts_paths_and_devices_are_what_the_spec_says() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("c")
        .sh("touch /x 2>&1; touch /data/x 2>&1; cat /file; echo changed > /file; touch /tmp/y && echo tmp; \
             wc -c < /proc/keys; echo 1 2>&1 > /proc/sys/kernel/printk; stat -c '%F %t:%T %a' /dev/null /dev/zero /dev/tty; \
             ls -l /dev/ptmx /dev/fd | sed 's/.*-> //'; mknod /tmp/disk b 8 0 && cat /tmp/disk 2>&1; echo x > /dev/null; \
             mknod /tmp/mem c 1 1 && dd if=/tmp/mem of=/dev/null bs=1 count=1 2>&1 | head -1; df -h /dev/shm | tail -1")
        .with("/root/readonly", json!(true))
        .mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=1m"]}))
        .mount(json!({"destination": "/data", "type": "bind", "source": "/run/share/c/mounts/0", "options": ["rbind", "ro", "rprivate"]}))
        .mount(json!({"destination": "/file", "type": "bind", "source": "/run/share/c/mounts/1", "options": ["bind", "rw", "rslave"]}));
    let mounts = vm.directory.path().join("share/c/mounts");
    std::fs::create_dir_all(mounts.join("0")).unwrap();
    std::fs::create_dir_all(vm.directory.path().join("share/c/rootfs/data")).unwrap();
    std::fs::write(vm.directory.path().join("share/c/rootfs/file"), "").unwrap();
    std::fs::write(mounts.join("1"), "content\n").unwrap();
    let text = output(&mut vm, container).await;
    for expected in [
        "touch: /x: Read-only file system",
        "touch: /data/x: Read-only file system",
        "content",
        "tmp",
        "character special file 1:3 666",
        "character special file 5:0 666",
        "can't open '/tmp/disk': Operation not permitted",
        "can't open '/tmp/mem': Operation not permitted",
        "64.0M",
        "pts/ptmx",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    assert_eq!(std::fs::read_to_string(mounts.join("1")).unwrap(), "changed\n");
}

#[tokio::test]
async fn a_container_sees_only_itself() {
    let Some(mut vm) = boot().await else { return };
    let other = vm.container("other").args(&["sleep", "1000"]);
    let _other = vm.run(&other).await;
    let container = vm
        .container("c")
        .sh("ps | wc -l; cat /proc/1/cgroup; cat /sys/fs/cgroup/cgroup.procs | wc -l; hostname; \
             readlink /proc/1/exe; grep -c . /proc/self/mountinfo; grep -E 'initramfs|rootfs|share ' /proc/self/mountinfo")
        .with("/hostname", json!("inner"))
        .with("/process/capabilities", json!({"bounding": [], "effective": [], "permitted": []}));
    let text = output(&mut vm, container).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "0::/", "{text}");
    assert_eq!(lines[3..5], ["inner", "/bin/busybox"], "{text}");
    assert_eq!(text.matches("/run/share").count(), 0, "{text}");
}

#[tokio::test]
async fn sysctls_and_seccomp_are_applied() {
    let Some(mut vm) = boot().await else { return };
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
    let container = vm
        .container("c")
        .sh("mkdir /d 2>&1; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; sleep 1000")
        .with("/linux/seccomp", seccomp)
        .with(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"}),
        );
    let mut streams = vm.run(&container).await;
    let text = streams.hear("4321\n").await;
    assert_eq!(
        text,
        "mkdir: can't create directory '/d': No space left on device\n1\n4321\n"
    );
    let exec = vm.exec(&container, "e", &["mkdir", "/e"]).await.unwrap();
    let stderr = support::read_all(exec.stderr.unwrap()).await;
    assert_eq!(
        stderr,
        "mkdir: can't create directory '/e': No space left on device\n"
    );
    let privileged = vm
        .container("p")
        .sh("mkdir /d; grep Seccomp: /proc/self/status")
        .with("/process/noNewPrivileges", json!(false));
    assert_eq!(vm.exit().await.exec_id, "e");
    assert_eq!(output(&mut vm, privileged).await, "Seccomp:\t0\n");
}

#[tokio::test]
async fn limits_are_set_changed_and_read() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("c")
        .sh("cd /sys/fs/cgroup; cat memory.max cpu.max pids.max cpu.weight; read x; cat memory.max cpu.max pids.max")
        .with("/linux/resources", json!({"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "period": 100000, "shares": 512}, "pids": {"limit": 20}}));
    let mut streams = vm.run(&container).await;
    let limits = streams.hear("20\n20\n").await;
    assert_eq!(limits, "67108864\n50000 100000\n20\n20\n");
    let update = json!({"memory": {"limit": 33554432}, "cpu": {"quota": 20000, "period": 100000}});
    vm.done(Body::Update(Update {
        container_id: "c".into(),
        resources: update.to_string().into(),
    }))
    .await;
    let unsupported = json!({"memory": {"swappiness": 5}}).to_string().into();
    let failed = vm
        .fails(Body::Update(Update {
            container_id: "c".into(),
            resources: unsupported,
        }))
        .await;
    assert_eq!(failed.kind(), FailureKind::Unsupported);
    streams.say("\n").await;
    assert_eq!(streams.hear("\n20\n").await, "33554432\n20000 100000\n20\n");
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(0)));
    let failed = vm
        .fails(Body::Update(Update {
            container_id: "c".into(),
            resources: "{}".into(),
        }))
        .await;
    assert_eq!(failed.kind(), FailureKind::FailedPrecondition);
}

#[tokio::test]
async fn want_of_memory_is_told_before_the_exit_it_causes() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("c")
        .sh("exec dd if=/dev/zero of=/dev/shm/x bs=1M count=100")
        .with(
            "/linux/resources",
            json!({"memory": {"limit": 16777216, "swap": 16777216}}),
        );
    let _streams = vm.run(&container).await;
    assert!(matches!(vm.event().await, Body::Oom(oom) if oom.container_id == "c"));
    let exited = vm.exit().await;
    assert_eq!(
        (exited.status, exited.oom_killed),
        (Some(ExitStatus::Signal(9)), true)
    );
}

#[tokio::test]
async fn counters_come_at_creation_while_they_change_and_at_the_end() {
    let Some(mut vm) = boot().await else { return };
    let container = vm
        .container("c")
        .sh("dd if=/dev/zero of=/dev/null bs=1M count=300 2>/dev/null; read x");
    let mut streams = vm.create(&container).await.unwrap();
    let Body::Stats(first) = vm.any_event().await else {
        panic!("no counters of a created container")
    };
    assert!(first.memory_usage > 0 && first.pids_current == 1, "{first:?}");
    vm.start("c").await;
    let before = first.cpu_usage_usec;
    let mut last = first;
    while last.cpu_usage_usec == before {
        let Body::Stats(next) = vm.any_event().await else {
            panic!("no counters of a running container")
        };
        last = next;
    }
    streams.say("\n").await;
    loop {
        match vm.any_event().await {
            Body::Stats(stats) => last = stats,
            Body::Exited(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        last.cpu_usage_usec >= 1000 && last.memory_stat.contains_key("anon"),
        "{last:?}"
    );
}
