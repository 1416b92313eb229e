//! Killed at any moment of saving and loading.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bulkhead_runtime::sandbox::{Origin, Sandbox, SandboxEvent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::rig::{Rig, within};
use crate::{LOOK, build, key, path, rig, rig_with_template, wait_for_template};

/// How soon nothing may be left of what was killed.
const GONE: Duration = Duration::from_secs(10);

/// Processes of QEMU that have this rig's guest, with what they were told.
fn monitors(rig: &Rig) -> Vec<(Pid, String)> {
    let initramfs = rig.config.initramfs.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let is_ours = command.contains("qemu-system") && command.contains(&initramfs);
            is_ours.then_some((Pid::from_raw(pid), command))
        })
        .collect()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + GONE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(LOOK).await;
    }
}

fn builder(rig: &Rig) -> Child {
    let config = rig.base.path().join("config.toml");
    fs::write(&config, toml::to_string(&rig.config).unwrap()).unwrap();
    Command::new(rig.config.helper("bulkhead"))
        .arg("--config")
        .arg(config)
        .args(["template", "build", "--vcpus", "1", "--memory-mib", "256"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_builder_that_is_killed_leaves_nothing_that_counts() {
    let Some(rig) = rig() else { return };
    // How long a whole one takes here and now.
    let begun = Instant::now();
    assert!(builder(&rig).wait().unwrap().success());
    let whole = begun.elapsed();
    const STEPS: u32 = 5;
    for step in 0..STEPS {
        fs::remove_file(path(&rig).await).ok();
        let mut victim = builder(&rig);
        tokio::time::sleep(whole * step / STEPS).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        until("its VM ends with it", || monitors(&rig).is_empty()).await;
        // There is a whole one or none.
        let running = rig.launch("s1").await;
        assert!(matches!(
            running.sandbox.timings().origin,
            Origin::Booted | Origin::Restored
        ));
        running.end().await;
        // A sandbox that booted has another one made.
        wait_for_template(&rig).await;
    }
    build(&rig).await.unwrap();
    let mut names: Vec<_> = fs::read_dir(&rig.config.template_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [format!("{}.vm", key(&rig).await.name())]);
    let builders = rig.config.state_dir.join(".templates");
    assert!(!builders.exists(), "{:?}", fs::read_dir(builders).unwrap().next());
    rig.assert_clean();
}

/// The monitor that is there to restore a VM, as soon as it is.
async fn restoring(rig: &Rig) -> Pid {
    within(async {
        loop {
            if let Some((pid, _)) = monitors(rig)
                .into_iter()
                .find(|(_, command)| command.contains("-incoming"))
            {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

/// As on a host that has too much to do.
#[tokio::test]
async fn a_monitor_that_is_too_slow_to_begin_does_not_cost_the_template() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let template = path(&rig).await;
    let launch = tokio::spawn(Sandbox::launch(rig.request("s1")));
    kill(restoring(&rig).await, Signal::SIGSTOP).unwrap();
    let (sandbox, _events) = within(launch).await.unwrap().unwrap();
    assert_eq!(sandbox.timings().origin, Origin::BootedInstead);
    assert!(template.exists());
    within(sandbox.shutdown(GONE)).await.unwrap();
    rig.assert_clean();
}

#[tokio::test]
async fn a_monitor_that_is_killed_while_it_loads_is_replaced() {
    for after in [0, 5, 20, 40, 80].map(Duration::from_millis) {
        let Some(rig) = rig_with_template().await else {
            return;
        };
        let launch = tokio::spawn(Sandbox::launch(rig.request("s1")));
        let victim = restoring(&rig).await;
        tokio::time::sleep(after).await;
        kill(victim, Signal::SIGKILL).unwrap();
        let (sandbox, mut events) = within(launch).await.unwrap().unwrap();
        if sandbox.timings().origin == Origin::Restored {
            // It was up already: then it is a VM that died.
            let gone = within(events.recv()).await;
            assert!(matches!(gone, Some(SandboxEvent::VmGone { .. })), "{gone:?}");
        } else {
            assert_eq!(sandbox.timings().origin, Origin::BootedInstead, "after {after:?}");
        }
        within(sandbox.shutdown(GONE)).await.unwrap();
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_restore_that_is_given_up_leaves_nothing() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    for after in [0, 5, 20, 50, 100, 200, 400] {
        let launch = Sandbox::launch(rig.request(&format!("s{after}")));
        // Either side of the race is fine; what is left is not.
        tokio::time::timeout(Duration::from_millis(after), launch)
            .await
            .ok();
    }
    // By the end of this one the others have begun what they will ever begin.
    within(rig.launch("last").await.sandbox.shutdown(GONE))
        .await
        .unwrap();
    let sandboxes = rig.config.state_dir.join("test");
    until("everything goes", || {
        !sandboxes.exists() && monitors(&rig).is_empty()
    })
    .await;
    rig.assert_clean();
}
