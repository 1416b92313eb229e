//! The agent in a real VM: execs, streams, terminals, signals, freezing.

mod support;

use bulkhead_agent_protocol::message::*;
use bytes::Bytes;
use serde_json::json;
use support::{Container, Streams, Vm, boot, read_all};

/// A container that sleeps.
async fn sleeper(vm: &Vm, id: &str) -> (Container, Streams) {
    let container = vm.container(id).args(&["sleep", "1000"]);
    let streams = vm.run(&container).await;
    (container, streams)
}

#[tokio::test]
async fn input_is_read_to_its_end_and_output_loses_nothing() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("cat").sh("cat; echo done");
    let Streams {
        mut stdin,
        mut stdout,
        ..
    } = vm.run(&container).await;
    const LENGTH: usize = 4 << 20;
    let feeder = tokio::spawn(async move {
        for chunk in 0..LENGTH / 4096 {
            stdin.write(Bytes::from(vec![chunk as u8; 4096])).await.unwrap();
        }
        stdin.end().await.unwrap();
    });
    let mut received = Vec::new();
    while let Some(bytes) = stdout.read().await.unwrap() {
        received.extend_from_slice(&bytes);
    }
    feeder.await.unwrap();
    assert_eq!(received.len(), LENGTH + 5);
    assert!(
        received[..LENGTH]
            .chunks(4096)
            .enumerate()
            .all(|(chunk, bytes)| bytes.iter().all(|b| *b == chunk as u8))
    );
    assert_eq!(&received[LENGTH..], b"done\n");
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(0)));
    // All of it arrives although the process is long gone.
    let burst = vm.container("burst").sh("head -c 300000 /dev/zero");
    let streams = vm.run(&burst).await;
    assert_eq!(vm.exit().await.container_id, "burst");
    assert_eq!(read_all(streams.stdout).await.len(), 300_000);
}

#[tokio::test]
async fn an_absent_stream_is_dev_null() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("c").sh("cat; echo x; echo y >&2; readlink /proc/self/fd/0 >/report; stat -Lc %t:%T /proc/self/fd/1 >>/report");
    let spec = container.json();
    let request = CreateContainer {
        container_id: "c".into(),
        spec,
        ..CreateContainer::default()
    };
    assert!(matches!(
        vm.request(Body::CreateContainer(request)).await,
        Outcome::Started(_)
    ));
    vm.start("c").await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(0)));
    let report = std::fs::read_to_string(vm.directory.path().join("share/c/rootfs/report")).unwrap();
    assert!(report.starts_with("/dev/null\n"), "{report}");
}

#[tokio::test]
async fn output_that_nobody_reads_stalls_only_itself() {
    let Some(mut vm) = boot().await else { return };
    let noisy = vm.container("noisy").args(&["yes"]);
    let _unread = vm.run(&noisy).await;
    let exec = vm.exec(&noisy, "e", &["echo", "still here"]).await.unwrap();
    assert_eq!(exec.finish().await, "still here\n");
    assert_eq!(vm.exit().await.exec_id, "e");
    vm.kill("noisy", "", 9, false).await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
    vm.delete("noisy", "").await;
}

#[tokio::test]
async fn a_descendant_that_holds_the_output_does_not_delay_the_exit() {
    let Some(mut vm) = boot().await else { return };
    let (container, _streams) = sleeper(&vm, "c").await;
    let mut exec = vm
        .exec(&container, "e", &["sh", "-c", "sleep 1000 & echo parent; exit 3"])
        .await
        .unwrap();
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(3)));
    exec.hear("parent").await;
    vm.delete("c", "e").await;
    // The descendant lives on, and its end is nobody's business.
    vm.kill("c", "", 9, true).await;
    assert_eq!(vm.exit().await.exec_id, "");
}

#[tokio::test]
async fn an_exec_is_what_it_asks_for() {
    let Some(mut vm) = boot().await else { return };
    let (container, _streams) = sleeper(&vm, "c").await;
    let mut process = container.exec_process(&["sh", "-c", "id -u; pwd; echo $A; umask; ulimit -n; cat /proc/self/cgroup /proc/self/oom_score_adj; grep -E 'CapEff|CapBnd|NoNew' /proc/self/status; ls /proc/self/fd | wc -l; exit 5"]);
    process["user"] = json!({"uid": 1000, "gid": 1000, "umask": 0o077});
    process["cwd"] = json!("/tmp");
    process["env"] = json!(["PATH=/bin", "A=b"]);
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
    process["oomScoreAdj"] = json!(200);
    let text = vm
        .exec_process(&container, "e", process)
        .await
        .unwrap()
        .finish()
        .await;
    assert!(text.starts_with("1000\n/tmp\nb\n0077\n99\n0::/\n200\n"), "{text}");
    assert!(
        text.contains("CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t1\n4\n"),
        "{text}"
    );
    let exited = vm.exit().await;
    assert_eq!(
        (exited.exec_id.as_str(), exited.status),
        ("e", Some(ExitStatus::Code(5)))
    );
    // An id is taken until it is deleted.
    let taken = vm.exec(&container, "e", &["true"]).await.err().unwrap();
    assert_eq!(taken.kind(), FailureKind::AlreadyExists);
    vm.delete("c", "e").await;
    vm.exec(&container, "e", &["true"]).await.unwrap();
    assert_eq!(vm.exit().await.exec_id, "e");
    // 64 KiB of arguments in all.
    let long = "x".repeat(64 * 1024);
    let exec = vm
        .exec(&container, "long", &["sh", "-c", "echo ${#1}", "sh", &long])
        .await
        .unwrap();
    assert_eq!(exec.finish().await, "65536\n");
}

#[tokio::test]
async fn an_exec_that_cannot_start_says_why_and_leaves_its_id() {
    let Some(vm) = boot().await else { return };
    let (container, _streams) = sleeper(&vm, "c").await;
    let changed = |field: &str, value: serde_json::Value| {
        let mut process = container.exec_process(&["true"]);
        process[field] = value;
        process
    };
    let cases = [
        (
            changed("args", json!(["nope"])),
            FailureKind::ExecutableNotFound,
            r#"exec: "nope": executable file not found in $PATH"#,
        ),
        (
            changed("args", json!(["/etc"])),
            FailureKind::PermissionDenied,
            r#"exec: "/etc": is a directory"#,
        ),
        (
            changed("cwd", json!("/nope")),
            FailureKind::BadCwd,
            r#"chdir to cwd ("/nope") set in config.json failed: no such file or directory"#,
        ),
        (
            changed(
                "rlimits",
                json!([{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 9999999999u64}]),
            ),
            FailureKind::ResourceLimit,
            "",
        ),
        (
            changed("env", json!(["novalue"])),
            FailureKind::InvalidArgument,
            r#"process.env: "novalue" is not NAME=VALUE"#,
        ),
    ];
    for (process, kind, message) in cases {
        let failed = vm.exec_process(&container, "e", process).await.err().unwrap();
        assert_eq!(failed.kind(), kind, "{failed:?}");
        assert!(message.is_empty() || failed.message == message, "{failed:?}");
    }
    // No descriptor of the agent's helper is a way out of the root.
    for fd in 3..16 {
        let process = changed("cwd", json!(format!("/proc/self/fd/{fd}")));
        let failed = vm.exec_process(&container, "e", process).await.err().unwrap();
        assert_eq!(failed.kind(), FailureKind::BadCwd, "{failed:?}");
    }
    vm.exec(&container, "e", &["true"]).await.unwrap();
}

#[tokio::test]
async fn fifty_execs_at_once() {
    let Some(mut vm) = boot().await else { return };
    let (container, _streams) = sleeper(&vm, "c").await;
    let names: Vec<String> = (0..50).map(|number| format!("e{number}")).collect();
    let (vm_ref, container) = (&vm, &container);
    let execs = names.iter().map(|name| async move {
        let script = format!("echo {name}; exit {}", &name[1..]);
        vm_ref
            .exec(container, name, &["sh", "-c", &script])
            .await
            .unwrap()
            .finish()
            .await
    });
    let outputs = futures::future::join_all(execs).await;
    assert!(
        names
            .iter()
            .zip(outputs)
            .all(|(name, output)| output.trim() == name)
    );
    let mut codes = Vec::new();
    for _ in &names {
        let exited = vm.exit().await;
        let number: u32 = exited.exec_id[1..].parse().unwrap();
        assert_eq!(exited.status, Some(ExitStatus::Code(number)));
        codes.push(number);
    }
    codes.sort_unstable();
    assert_eq!(codes, (0..50).collect::<Vec<u32>>());
}

#[tokio::test]
async fn terminals_have_a_size_and_pass_control_characters() {
    let Some(mut vm) = boot().await else { return };
    let resize = |exec_id: &str, width, height| {
        Body::ResizePty(ResizePty {
            container_id: "c".into(),
            exec_id: exec_id.into(),
            width,
            height,
        })
    };
    let container = vm
        .container("c")
        .sh("stty size; tty; id -u; test -w $(tty) && echo mine; read x; stty size; trap 'echo caught; exit 4' INT; echo waiting; while true; do sleep 1; done")
        .with("/process/consoleSize", json!({"height": 30, "width": 90}))
        .with("/process/user", json!({"uid": 1000, "gid": 1000}))
        .terminal();
    let mut streams = vm.create(&container).await.unwrap();
    vm.done(resize("", 12, 34)).await;
    vm.start("c").await;
    let text = streams.hear("mine").await;
    assert!(text.starts_with("34 12\r\n/dev/pts/0\r\n1000\r\n"), "{text}");
    vm.done(resize("", 100, 50)).await;
    streams.say("\n").await;
    let text = streams.hear("waiting").await;
    assert!(text.contains("50 100"), "{text}");
    // An exec has a terminal of its own in the same /dev/pts.
    let mut process = container.exec_process(&["sh", "-c", "stty size; tty; exit 6"]);
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({"height": 3, "width": 4});
    let exec = vm.exec_process(&container, "e", process).await.unwrap();
    assert_eq!(read_all(exec.stdout).await, "3 4\r\n/dev/pts/1\r\n");
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Code(6)));
    streams.say("\x03").await;
    streams.hear("caught").await;
    let exited = vm.exit().await;
    assert_eq!(
        (exited.exec_id.as_str(), exited.status),
        ("", Some(ExitStatus::Code(4)))
    );
    assert_eq!(read_all(streams.stdout).await.trim(), "");
    vm.delete("c", "").await;
}

#[tokio::test]
async fn states_are_kept() {
    let Some(mut vm) = boot().await else { return };
    let id = || "c".to_owned();
    let start = || Body::StartContainer(StartContainer { container_id: id() });
    let kill = |exec_id: &str| {
        Body::Kill(Kill {
            container_id: id(),
            exec_id: exec_id.into(),
            signal: 9,
            all: false,
        })
    };
    let delete = || {
        Body::Delete(Delete {
            container_id: id(),
            exec_id: String::new(),
        })
    };
    assert_eq!(vm.fails(start()).await.kind(), FailureKind::NotFound);
    let container = vm.container("c").args(&["sleep", "1000"]);
    let _streams = vm.create(&container).await.unwrap();
    let twice = vm.create(&container).await.err().unwrap();
    assert_eq!(twice.kind(), FailureKind::AlreadyExists);
    assert_eq!(
        vm.fails(Body::Pause(Pause { container_id: id() })).await.kind(),
        FailureKind::FailedPrecondition
    );
    // Execs work in a created container.
    assert_eq!(
        vm.exec(&container, "early", &["echo", "hi"])
            .await
            .unwrap()
            .finish()
            .await,
        "hi\n"
    );
    assert_eq!(vm.exit().await.exec_id, "early");
    vm.start("c").await;
    assert_eq!(vm.fails(start()).await.kind(), FailureKind::FailedPrecondition);
    assert_eq!(
        vm.fails(delete()).await.message,
        "cannot delete a running process"
    );
    assert_eq!(vm.fails(kill("none")).await.kind(), FailureKind::NotFound);
    vm.done(kill("")).await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
    assert_eq!(vm.fails(kill("")).await.message, "process already finished");
    let late = vm.exec(&container, "late", &["true"]).await.err().unwrap();
    assert_eq!(
        (late.kind(), late.message.as_str()),
        (
            FailureKind::FailedPrecondition,
            "container c init process is not running"
        )
    );
    vm.done(delete()).await;
    assert_eq!(vm.fails(delete()).await.kind(), FailureKind::NotFound);
    // A created container can be deleted, which kills it, and killed, which stops it.
    let again = vm.container("d").args(&["true"]);
    vm.create(&again).await.unwrap();
    vm.delete("d", "").await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
}

#[tokio::test]
async fn a_paused_container_stands_still_and_can_be_killed() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("c").sh("while read x; do echo got $x; done");
    let mut streams = vm.run(&container).await;
    let pause = || {
        Body::Pause(Pause {
            container_id: "c".into(),
        })
    };
    streams.say("1\n").await;
    streams.hear("got 1").await;
    vm.done(pause()).await;
    assert_eq!(vm.fails(pause()).await.kind(), FailureKind::FailedPrecondition);
    let refused = vm.exec(&container, "e", &["true"]).await.err().unwrap();
    assert_eq!(refused.message, "cannot exec in a paused state");
    streams.say("2\n").await;
    vm.done(Body::Ping(Ping {})).await;
    vm.done(Body::Resume(Resume {
        container_id: "c".into(),
    }))
    .await;
    streams.hear("got 2").await;
    vm.done(pause()).await;
    vm.kill("c", "", 9, false).await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
    vm.delete("c", "").await;
}

#[tokio::test]
async fn all_processes_are_listed_and_killed() {
    let Some(mut vm) = boot().await else { return };
    let container = vm.container("c").sh("sleep 1000 & echo ready; wait");
    let mut streams = vm.run(&container).await;
    streams.hear("ready").await;
    let _exec = vm.exec(&container, "e", &["sleep", "1000"]).await.unwrap();
    let Outcome::Processes(list) = vm
        .request(Body::Pids(Pids {
            container_id: "c".into(),
        }))
        .await
    else {
        panic!()
    };
    let ids: Vec<Option<&str>> = list
        .processes
        .iter()
        .map(|process| process.exec_id.as_deref())
        .collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], Some(""));
    assert!(ids.contains(&Some("e")) && ids.contains(&None), "{ids:?}");
    vm.kill("c", "", 15, true).await;
    let exited = vm.exit().await;
    assert_eq!(
        (exited.exec_id.as_str(), exited.status),
        ("e", Some(ExitStatus::Signal(15)))
    );
    // The shell's child has ended, and so it ends too.
    assert_eq!(vm.exit().await.exec_id, "");
}

#[tokio::test]
async fn without_a_pid_namespace_of_its_own_a_containers_rest_ends_with_its_init() {
    let Some(mut vm) = boot().await else { return };
    let namespaces = json!([{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    let container = vm
        .container("c")
        .sh("sleep 1000 & echo ready; read x; exit 9")
        .with("/linux/namespaces", namespaces);
    let mut streams = vm.run(&container).await;
    streams.hear("ready").await;
    let _exec = vm.exec(&container, "e", &["sleep", "1000"]).await.unwrap();
    streams.say("\n").await;
    let first = vm.exit().await;
    assert_eq!(
        (first.exec_id.as_str(), first.status),
        ("e", Some(ExitStatus::Signal(9)))
    );
    let last = vm.exit().await;
    assert_eq!(
        (last.exec_id.as_str(), last.status),
        ("", Some(ExitStatus::Code(9)))
    );
    vm.delete("c", "").await;
}
