//! Everybody dies, one at a time; the host must not notice.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_runtime::cleanup;
use bulkhead_runtime::config::Config;
use bulkhead_runtime::process::ProcessIdentity;
use bulkhead_runtime::sandbox::{ErrorKind, Sandbox, SandboxEvent};
use bulkhead_runtime::state::{Phase, SandboxState};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::json;

use crate::rig::{Rig, within};

/// How soon nothing may be left of a sandbox whose owner has gone.
const GONE: Duration = Duration::from_secs(10);

fn state(config: &Config) -> SandboxState {
    SandboxState::read(&config.state_dir.join("test/s1"))
        .unwrap()
        .unwrap()
}

fn kill(process: &ProcessIdentity) {
    pidfd_send_signal(process.pidfd().unwrap().unwrap(), Signal::KILL).unwrap();
}

async fn soon(done: impl Fn() -> bool) {
    let until = Instant::now() + GONE;
    while !done() {
        assert!(Instant::now() < until, "not soon enough");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_vm_that_dies_takes_its_containers_along_and_can_be_cleaned_up() {
    for victim in ["vmm", "fs_server"] {
        let Some(rig) = Rig::new() else { return };
        let mut running = rig.launch("s1").await;
        let container = running
            .create(rig.container("s1", "busybox sleep 1000", |_| {}))
            .await;
        within(container.start()).await.unwrap();
        let state = state(&rig.config);
        kill(if victim == "vmm" {
            &state.vmm[1]
        } else {
            state.fs_server.as_ref().unwrap()
        });
        let reason = loop {
            match within(running.events.recv()).await.unwrap() {
                SandboxEvent::VmGone { reason } => break reason,
                other => assert!(!matches!(other, SandboxEvent::Exited { .. }), "{other:?}"),
            }
        };
        assert!(
            reason.contains("vmm_crash") || reason.starts_with("fs_backend_lost"),
            "{victim}: {reason}"
        );
        assert!(
            !Path::new("/proc").join(container.pid().to_string()).exists(),
            "the anchor outlives the VM"
        );
        let told = SandboxState::read(&rig.config.state_dir.join("test/s1"))
            .unwrap()
            .unwrap();
        assert_eq!((told.phase, told.reason), (Phase::Failed, Some(reason)));
        assert_eq!(within(running.events.recv()).await, None);
        assert_eq!(
            within(container.pause()).await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        within(container.delete()).await.unwrap();
        within(running.sandbox.shutdown(GONE)).await.unwrap();
        within(running.sandbox.shutdown(GONE)).await.unwrap();
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    for after in [1, 30, 300, 800] {
        let launch = Sandbox::launch(rig.request("s1"));
        let given_up = tokio::time::timeout(Duration::from_millis(after), launch).await;
        assert!(given_up.is_err());
        soon(|| !rig.config.state_dir.join("test").exists()).await;
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_launch_that_is_stopped_has_left_nothing_when_it_returns() {
    let Some(rig) = Rig::new() else { return };
    for after in [0, 30, 300] {
        let stop = tokio::time::sleep(Duration::from_millis(after));
        let launch = Sandbox::launch_unless(stop, rig.request("s1"));
        let error = within(launch).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(!rig.config.state_dir.join("test").exists());
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_shutdown_undoes_the_creates_under_way_and_lets_none_begin() {
    let Some(rig) = Rig::new() else { return };
    for pause in ["0", "0.5"] {
        let running = rig.launch("s1").await;
        let begun = rig.base.path().join("begun");
        let hook = format!("touch {}; sleep {pause}", begun.display());
        let request = rig.container("s1", "busybox sleep 1000", |config| {
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", hook]});
            config["hooks"] = json!({"createRuntime": [hook]});
        });
        let (sandbox, other) = (running.sandbox.clone(), request.clone());
        let create = tokio::spawn(async move { sandbox.create_container(request).await });
        soon(|| begun.exists()).await;
        within(running.sandbox.shutdown(Duration::from_secs(20)))
            .await
            .unwrap();
        assert!(create.await.unwrap().is_err());
        let refused = within(running.sandbox.create_container(other)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused}");
        rig.assert_clean();
        fs::remove_file(begun).unwrap();
    }
}

#[tokio::test]
async fn a_sandbox_that_is_dropped_is_gone_soon() {
    let Some(rig) = Rig::new() else { return };
    let running = rig.launch("s1").await;
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;
    within(container.start()).await.unwrap();
    let pid = container.pid();
    drop((running, container));
    soon(|| !rig.config.state_dir.join("test").exists()).await;
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    rig.assert_clean();
}

#[tokio::test]
async fn a_guest_kernel_that_is_no_kernel_fails_with_the_monitors_words() {
    let Some(mut rig) = Rig::new() else { return };
    rig.config.kernel = rig.base.path().join("no-kernel");
    fs::write(&rig.config.kernel, "nothing of the sort").unwrap();
    let error = within(Sandbox::launch(rig.request("s1"))).await.unwrap_err();
    assert!(error.to_string().contains("did not"), "{error}");
    rig.assert_clean();
}

/// Names the base directory of a sandbox that a second process of this test owns, and that it kills.
const VICTIM: &str = "BULKHEAD_TEST_VICTIM";

/// Not a test of its own: the process that `a_shim_that_is_killed..` kills.
#[tokio::test]
async fn victim() {
    let Some(signal) = std::env::var_os(VICTIM) else {
        return;
    };
    let rig = Rig::new().unwrap();
    let running = rig.launch("s1").await;
    let container = running
        .create(rig.container("s1", "busybox sleep 1000", |_| {}))
        .await;
    within(container.start()).await.unwrap();
    let base = rig.base.path().to_str().unwrap();
    fs::write(Path::new(&signal).with_extension("new"), base).unwrap();
    fs::rename(Path::new(&signal).with_extension("new"), &signal).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_shim_that_is_killed_is_cleaned_up_after_by_what_is_on_disk() {
    let Some(rig) = Rig::new() else { return };
    let signal = rig.base.path().join("ready");
    let mut shim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "death::victim", "--nocapture"])
        .env(VICTIM, &signal)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while !signal.exists() {
        assert!(
            Instant::now() < until && shim.try_wait().unwrap().is_none(),
            "the other process failed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let base = PathBuf::from(fs::read_to_string(&signal).unwrap());
    let config = Config {
        state_dir: base.join("state"),
        ..rig.config.clone()
    };
    let state = state(&config);
    shim.kill().unwrap();
    shim.wait().unwrap();

    let begun = Instant::now();
    let bundle = base.join("bundles/s1");
    tokio::task::spawn_blocking(move || {
        for _ in 0..3 {
            cleanup::container(&config, "test", "s1", "s1", &bundle).unwrap();
        }
    })
    .await
    .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "containerd would have given up"
    );
    assert!(
        !state
            .vmm
            .iter()
            .chain(&state.fs_server)
            .any(ProcessIdentity::is_alive)
    );
    assert!(!state.containers["s1"].anchor.unwrap().is_alive());
    assert!(!base.join("state/test").exists());
    let cgroups = state.cgroups.iter().chain(&state.containers["s1"].cgroups);
    assert_eq!(
        cgroups.filter(|cgroup| cgroup.exists()).collect::<Vec<_>>(),
        Vec::<&PathBuf>::new()
    );
    assert!(!state.containers["s1"].cgroups.is_empty());
    assert_eq!(
        bulkhead_runtime::mount::mounts_below(&base).unwrap(),
        Vec::<PathBuf>::new()
    );
    fs::remove_dir_all(&base).unwrap();
}
