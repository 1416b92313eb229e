//! Processes, and the anchors that stand for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_oci::runtime::{LinuxMemoryBuilder, LinuxResourcesBuilder, Process};
use bulkhead_runtime::sandbox::{ErrorKind, ExitStatus, StdioRequest};
use bytes::Bytes;
use serde_json::json;

use crate::rig::{OUTPUT, Rig, read, within};

pub fn process(command: &str) -> Process {
    serde_json::from_value(json!({
        "args": ["/bin/sh", "-c", command], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
    }))
    .unwrap()
}

fn proc_of(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

#[tokio::test]
async fn processes_have_anchors_for_exactly_as_long_as_they_live() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;

    let pid = container.pid();
    assert!(proc_of(pid).join("root/bin/busybox").exists());
    assert!(!proc_of(pid).join("root/etc").exists(), "the host's root shows");
    let places = fs::read_to_string(proc_of(pid).join("cgroup")).unwrap();
    let cgroup = Path::new("/").join(rig.cgroup("s1"));
    assert!(
        places
            .lines()
            .all(|line| line.ends_with(cgroup.to_str().unwrap())),
        "{places}"
    );
    within(container.start()).await.unwrap();

    let stdio = StdioRequest {
        stdin: true,
        ..OUTPUT
    };
    let (exec, mut streams) = within(container.exec("e1", &process("busybox cat; exit 3"), stdio))
        .await
        .unwrap();
    assert_ne!(exec.pid, pid);
    assert!(proc_of(exec.pid).join("root/bin/busybox").exists());
    let mut stdin = streams.stdin.take().unwrap();
    stdin.write(Bytes::from_static(b"to and fro")).await.unwrap();
    stdin.end().await.unwrap();
    assert_eq!(within(read(streams)).await, "to and fro");
    assert_eq!(running.exit_of("e1").await, ExitStatus::Code(3));
    assert!(
        !proc_of(exec.pid).exists(),
        "an exit is told before its pid is gone"
    );
    within(container.delete_exec("e1")).await.unwrap();

    within(container.refresh_other_pids()).await.unwrap();
    assert_eq!(container.other_pids(), Vec::<u32>::new());
    within(container.kill("", 15, false)).await.unwrap();
    within(container.kill("", 9, true)).await.unwrap();
    assert_eq!(running.exit_of("").await, ExitStatus::Signal(9));
    assert!(!proc_of(pid).exists());
    assert_eq!(container.pid(), pid, "containerd goes on asking for it");
    within(container.delete()).await.unwrap();
    within(container.delete()).await.unwrap();
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn a_program_that_is_missing_fails_in_runcs_words_and_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    let running = rig.launch("s1").await;
    let missing = rig.container("s1", "", |config| config["process"]["args"] = json!(["nonesuch"]));
    let error = within(running.sandbox.create_container(missing))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(r#"exec: "nonesuch": executable file not found in $PATH"#),
        "{error}"
    );
    assert!(!rig.config.state_dir.join("test/s1/shared/s1").exists());

    // The same id can be used at once; an exec that fails does not harm its container.
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;
    within(container.start()).await.unwrap();
    let mut nothing = process("");
    nothing.set_args(Some(vec!["nonesuch".into()]));
    let error = within(container.exec("e1", &nothing, OUTPUT)).await.unwrap_err();
    assert!(
        error.to_string().contains("executable file not found in $PATH"),
        "{error}"
    );
    let taken = rig.container("s1", "busybox true", |_| {});
    let error = within(running.sandbox.create_container(taken)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    within(running.sandbox.shutdown(Duration::from_secs(20)))
        .await
        .unwrap();
    rig.assert_clean();
}

#[tokio::test]
async fn the_id_of_a_deleted_container_has_other_files_at_once() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let other = running
        .create(rig.container("s2", "busybox sleep 1000", |_| {}))
        .await;
    within(other.start()).await.unwrap();
    for turn in 0..3 {
        let again = rig.container("s1", &format!("busybox echo {turn}"), |_| {});
        let (status, output) = running.run(again).await;
        assert_eq!((status, output), (ExitStatus::Code(0), format!("{turn}\n")));
    }
    running.end().await;
    rig.assert_clean();
}

#[tokio::test]
async fn limits_are_seen_on_both_sides() {
    let Some(rig) = Rig::new() else { return };
    let running = rig.launch("s1").await;
    let limited = |limit: i64| {
        let memory = LinuxMemoryBuilder::default().limit(limit).build().unwrap();
        LinuxResourcesBuilder::default().memory(memory).build().unwrap()
    };
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |config| {
            config["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}});
        }))
        .await;
    within(container.start()).await.unwrap();
    let on_host = || {
        let places = fs::read_to_string(proc_of(container.pid()).join("cgroup")).unwrap();
        let path = places.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            (controllers == "memory" || controllers.is_empty()).then(|| path.to_owned())
        });
        let path = path.unwrap();
        let v1 = format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes");
        let limit = fs::read_to_string(v1)
            .or_else(|_| fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")));
        limit.unwrap().trim().parse::<i64>().unwrap()
    };
    assert_eq!(on_host(), 64 << 20);
    within(container.update(&limited(32 << 20))).await.unwrap();
    assert_eq!(on_host(), 32 << 20);
    within(async {
        while container
            .stats()
            .is_none_or(|stats| stats.memory_limit != 32 << 20)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    within(running.sandbox.shutdown(Duration::from_secs(20)))
        .await
        .unwrap();
    rig.assert_clean();
}

#[tokio::test]
async fn who_kills_the_anchor_kills_the_process() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;
    within(container.start()).await.unwrap();
    let (exec, _streams) = within(container.exec("e1", &process("busybox sleep 1000"), OUTPUT))
        .await
        .unwrap();
    for (pid, exec_id) in [(exec.pid, "e1"), (container.pid(), "")] {
        let pid = nix::unistd::Pid::from_raw(pid.try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert_eq!(running.exit_of(exec_id).await, ExitStatus::Signal(9), "{exec_id}");
    }
    within(container.delete()).await.unwrap();
    running.end().await;
    rig.assert_clean();
}
