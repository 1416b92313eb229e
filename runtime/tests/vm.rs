//! Boots real VMs with a stub in place of the agent, and ends their processes in every way.
//!
//! Needs root, QEMU and a guest kernel (`BULKHEAD_KERNEL`, or the newest one that hack/guest-kernel built);
//! without them each test says so and passes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed test is meant to panic"
)]

mod support;

use std::fs;
use std::time::{Duration, Instant};

use bulkhead_runtime::process::Exit;
use bulkhead_runtime::vmm::fake::FakeVmm;
use bulkhead_runtime::vmm::{DeathReason, Vmm, VmmError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use support::{GONE, Rig, within};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::test]
async fn a_vm_says_hello_and_ends_when_told() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let state = vm.instance.examine().await.unwrap();
    assert!(state.starts_with("running; CPU#0 RIP="), "{state}");
    vm.send(b"e").await;
    let death = within(vm.instance.died()).await;
    assert_eq!(
        (death.exit, death.reason),
        (Exit::Code(0), DeathReason::GuestShutdown),
        "{death}"
    );
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn the_share_shows_what_is_mounted_later_and_goes_with_the_vm() {
    let Some(rig) = Rig::new() else { return };
    let mut vm = rig.boot().await;
    let (source, target) = (rig.path("source"), rig.share().join("bound"));
    for directory in [&source, &target] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(source.join("inside"), "").unwrap();
    mount(
        Some(&source),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .unwrap();
    vm.send(b"l").await;
    assert_eq!(vm.line().await, "bound");
    vm.send(b"w").await;
    vm.send(b"?").await;
    assert_eq!(vm.line().await, "?");
    assert_eq!(
        fs::read_to_string(rig.share().join("written")).unwrap(),
        "by the guest"
    );
    umount2(&target, MntFlags::MNT_DETACH).unwrap();

    vm.instance.kill().unwrap();
    within(vm.instance.died()).await;
    assert_eq!(within(vm.fs.process.wait()).await, Exit::Code(0));
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_dropped_vm_is_gone_soon() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let end = vm.instance.watch();
    drop(vm);
    // The guest saw its port hang up, and ended itself.
    assert_eq!(
        tokio::time::timeout(GONE, end.wait()).await.unwrap(),
        Exit::Code(0)
    );
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_dropped_vm_whose_guest_is_stuck_is_gone_soon() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    vm.instance.pause().await.unwrap();
    let end = vm.instance.watch();
    drop(vm);
    assert_eq!(
        tokio::time::timeout(GONE, end.wait()).await.unwrap(),
        Exit::Signal(9)
    );
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn killing_either_process_of_the_vm_ends_the_vm() {
    for victim in [0, 1] {
        let Some(rig) = Rig::new() else { return };
        let vm = rig.boot().await;
        let processes = vm.instance.processes();
        let pidfd = processes[victim].pidfd().unwrap().unwrap();
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        let death = within(vm.instance.died()).await;
        assert_eq!(
            (death.exit, death.reason),
            (Exit::Signal(9), DeathReason::VmmCrash)
        );
        assert!(!processes.iter().any(|process| process.is_alive()));
        assert_eq!(within(vm.fs.process.wait()).await, Exit::Code(0));
        rig.assert_nothing_left().await;
    }
}

/// The owner dies as an owner dies: all at once, with no last word.
#[tokio::test]
async fn an_owner_that_is_killed_takes_everything_with_it() {
    let Some(rig) = Rig::new() else { return };
    let program = std::env::current_exe().unwrap();
    let mut owner = tokio::process::Command::new(program);
    owner
        .args(["--exact", "the_owner", "--ignored", "--nocapture"])
        .env(support::RIG, rig.path(""));
    let mut owner = owner.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    while within(lines.next_line())
        .await
        .unwrap()
        .expect("an owner with a VM")
        != "BOOTED"
    {}
    owner.kill().await.unwrap();
    rig.assert_nothing_left().await;
}

#[tokio::test]
#[ignore = "the other half of the test above"]
async fn the_owner() {
    let Some(rig) = Rig::new() else { return };
    let _vm = rig.boot().await;
    println!("\nBOOTED");
    within(std::future::pending()).await
}

#[tokio::test]
async fn the_fake_is_a_process_with_the_agents_stream() {
    let Some(rig) = Rig::new() else { return };
    let fake = FakeVmm {
        program: support::program("examples/stub-agent"),
        arguments: Vec::new(),
    };
    let instance = fake.launch(rig.spec(None)).await.unwrap();
    let mut agent = BufReader::new(instance.take_agent().unwrap()).lines();
    assert_eq!(within(agent.next_line()).await.unwrap().unwrap(), "HELLO");
    assert!(matches!(
        instance.pause().await,
        Err(VmmError::Unsupported("pause"))
    ));
    let end = instance.watch();
    drop(instance);
    assert_eq!(within(end.wait()).await, Exit::Signal(9));
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_panic_is_told_with_the_kernels_words() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    vm.send(b"c").await;
    let death = within(vm.instance.died()).await;
    assert_eq!(death.reason, DeathReason::GuestPanic, "{death}");
    assert!(
        death
            .log
            .iter()
            .any(|line| line.contains("Attempted to kill init")),
        "{death}"
    );
}

#[tokio::test]
async fn drain_and_quit_end_the_monitor_in_order() {
    for quit in [false, true] {
        let Some(rig) = Rig::new() else { return };
        let vm = rig.boot().await;
        if quit {
            vm.instance.quit().await.unwrap();
        } else {
            vm.instance.process().drain().unwrap();
        }
        let death = within(vm.instance.died()).await;
        assert_eq!(
            (death.exit, death.reason),
            (Exit::Code(0), DeathReason::Requested),
            "{death}"
        );
    }
}

#[tokio::test]
async fn a_boot_that_fails_is_told_with_the_monitors_words() {
    let Some(rig) = Rig::new() else { return };
    let mut spec = rig.spec(None);
    spec.shape.kernel = rig.path("no-kernel");
    fs::write(&spec.shape.kernel, "nothing to boot").unwrap();
    let instance = rig.qemu().launch(spec).await.unwrap();
    let death = within(instance.died()).await;
    assert_eq!(death.exit, Exit::Code(1));
    assert!(death.to_string().contains("kernel"), "{death}");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let Some(rig) = Rig::new() else { return };
    let mut spec = rig.spec(None);
    spec.shape.kernel = rig.path("no-such-kernel");
    let error = rig.qemu().launch(spec).await.map(drop).unwrap_err();
    assert!(
        error.to_string().contains("no-such-kernel: No such file"),
        "{error}"
    );
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_monitor_that_is_not_there_is_named() {
    let Some(rig) = Rig::new() else { return };
    let mut qemu = rig.qemu();
    qemu.program = "/nonexistent/qemu".into();
    let error = qemu.launch(rig.spec(None)).await.map(drop).unwrap_err();
    assert!(matches!(error, VmmError::Prepare { .. }));
    assert!(
        error.to_string().contains("/nonexistent/qemu: No such file"),
        "{error}"
    );
    rig.assert_nothing_left().await;
}

#[tokio::test]
async fn a_launch_that_is_given_up_leaves_nothing() {
    let Some(rig) = Rig::new() else { return };
    for wait in [0, 1, 2, 5, 10] {
        let launch = async {
            let vm = rig.boot().await;
            drop(vm);
        };
        // Either side of the race is fine; what is left is not.
        tokio::time::timeout(Duration::from_millis(wait), launch)
            .await
            .ok();
        rig.assert_nothing_left().await;
    }
}

#[tokio::test]
async fn the_vms_processes_have_what_they_need_and_tell_nothing() {
    let Some(rig) = Rig::new() else { return };
    let vm = rig.boot().await;
    let [parent, monitor] = vm.instance.processes()[..] else {
        panic!("two processes")
    };
    let open = |pid: u32| -> Vec<_> {
        let numbers = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        numbers
            .map(|number| fs::read_link(number.unwrap().path()).unwrap())
            .collect()
    };
    // The lock, and the two pipes to the owner that QEMU knows nothing of.
    let (of_parent, of_monitor) = (open(parent.pid), open(monitor.pid));
    let pipes: Vec<_> = (4..6)
        .map(|n| fs::read_link(format!("/proc/{}/fd/{n}", parent.pid)).unwrap())
        .collect();
    assert!(
        !of_monitor.iter().any(|file| pipes.contains(file)),
        "{of_monitor:?}"
    );
    assert!(of_parent.contains(&rig.path("lock")) && of_monitor.contains(&rig.path("lock")));
    assert!(
        !of_parent
            .iter()
            .any(|file| file.to_string_lossy().starts_with("socket:")),
        "{of_parent:?}"
    );
    for process in vm.instance.processes() {
        let cmdline = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap();
        let cmdline = String::from_utf8_lossy(&cmdline);
        assert!(!cmdline.contains(&*rig.share().to_string_lossy()), "{cmdline}");
        assert_eq!(fs::read(format!("/proc/{}/environ", process.pid)).unwrap(), b"");
    }
}

/// Not a check: prints where the time of a boot goes, and what its processes weigh. The processor time tells
/// more than the clock on a host that does other things too.
/// `cargo test --release -p bulkhead-runtime --test vm -- --ignored --nocapture measure`
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_boot() {
    let Some(rig) = Rig::new() else { return };
    let (mut clock, mut processor) = (Vec::new(), Vec::new());
    for _ in 0..11 {
        let start = Instant::now();
        let fs = rig.share_server().await;
        let served = start.elapsed();
        let instance = rig.qemu().launch(rig.spec(Some(&fs))).await.unwrap();
        let launched = start.elapsed();
        let vm = support::Vm::new(instance, fs).await;
        let hello = start.elapsed();
        let [parent, monitor] = vm.instance.processes()[..] else {
            panic!("two processes")
        };
        let fs = vm.fs.process.pid();
        println!("file server {served:?}, QEMU started {launched:?}, HELLO {hello:?}");
        let weights = [parent.pid, monitor.pid, fs].map(support::proportional_kib);
        println!("proportional set size in KiB: parent, QEMU, file server {weights:?}");
        clock.push(hello - served);
        processor.push(support::processor_time(monitor.pid));
        vm.send(b"e").await;
        within(vm.instance.died()).await;
    }
    for (what, times) in [("clock", &mut clock), ("QEMU's processor time", &mut processor)] {
        times.sort();
        println!(
            "launch to HELLO, {what}: min {:?} median {:?} max {:?}",
            times[0], times[5], times[10]
        );
    }
}
