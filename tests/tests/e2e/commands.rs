//! The shim's own command line, and the operator's tool.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bulkhead_tests::command;
use bulkhead_tests::deadline::ORDINARY;
use bulkhead_tests::host::HostProcess;
use bulkhead_tests::settings::Settings;
use bulkhead_tests::shim::{Direct, Shim, shim_binary};
use bulkhead_tests::{Case, Container, Daemon, case};
use containerd_client::types::RuntimeInfo;
use nix::libc::SIGKILL;
use prost::Message;
use serde_json::Value;
use ttrpc::Code;

pub const CASES: &[Case] = &[
    case("version", version).vm_only(),
    case("info", info).vm_only(),
    case("start_is_silent_and_private", start_is_silent_and_private).vm_only(),
    case("start_without_a_namespace_fails", start_without_a_namespace_fails).vm_only(),
    case(
        "shim_is_harder_to_kill_than_its_work",
        shim_is_harder_to_kill_than_its_work,
    )
    .vm_only(),
    case("checkpoint_is_unimplemented", checkpoint_is_unimplemented).vm_only(),
    case("execs_leave_no_descriptors", execs_leave_no_descriptors),
    case("long_ids", long_ids),
    case("ps_lists_the_sandbox", ps_lists_the_sandbox).vm_only(),
    case(
        "doctor_tells_what_executes_guests",
        doctor_tells_what_executes_guests,
    )
    .vm_only()
    .core(),
];

fn version(_: &Daemon) {
    let output = command::succeed(Command::new(shim_binary()).arg("-v"), ORDINARY);
    assert!(output.text().contains(env!("CARGO_PKG_VERSION")), "{output:?}");
}

fn info(_: &Daemon) {
    let output = command::succeed(Command::new(shim_binary()).arg("-info"), ORDINARY);
    assert!(output.stderr.is_empty(), "{output:?}");
    let info = RuntimeInfo::decode(output.stdout.as_slice()).expect("a RuntimeInfo");
    assert_eq!(info.name, Settings::get().runtime);
    assert!(!info.version.expect("a version").version.is_empty());
    let features = info.features.expect("features");
    assert!(
        features
            .type_url
            .ends_with("opencontainers/runtime-spec/1/features/Features"),
        "{}",
        features.type_url
    );
    let features: Value = serde_json::from_slice(&features.value).expect("features are JSON");
    for field in ["ociVersionMin", "ociVersionMax"] {
        assert!(
            features[field]
                .as_str()
                .is_some_and(|version| !version.is_empty()),
            "{field} in {features}"
        );
    }
}

fn start_is_silent_and_private(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let socket = Direct::address(daemon, task.id());
    let path = socket.strip_prefix("unix://").expect("a unix socket");
    assert_eq!(
        fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o600,
        "{path}"
    );
    let shim = HostProcess::shim_of(daemon, task.id());
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{}/fd/{fd}", shim.pid)).unwrap();
        // Neither containerd's pipes, which it reads to their end, nor its terminal.
        assert!(
            !target.to_string_lossy().starts_with("pipe:"),
            "fd {fd} of the shim is {}",
            target.display()
        );
    }
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn start_without_a_namespace_fails(daemon: &Daemon) {
    let bundle = Shim::bundle(daemon, "no-namespace");
    let mut start = Command::new(shim_binary());
    let output = command::run(
        start.current_dir(&bundle).args(["-id", "no-namespace", "start"]),
        b"",
        ORDINARY,
    );
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert_eq!(output.error_text().trim_end().lines().count(), 1, "{output:?}");
    fs::remove_dir_all(bundle).unwrap();
}

fn shim_is_harder_to_kill_than_its_work(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let score = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    let shim = HostProcess::shim_of(daemon, task.id());
    assert_eq!(score(shim.pid), (score(daemon.pid()) + 1).min(1000));
    let vmm = shim.descendant("qemu-system");
    assert!(score(vmm.pid) >= score(shim.pid), "the VMM dies first");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn checkpoint_is_unimplemented(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let refusal = Direct::connect(daemon, task.id())
        .checkpoint()
        .expect_err("Checkpoint");
    assert_eq!(refusal.code, Code::UNIMPLEMENTED, "{refusal:?}");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn execs_leave_no_descriptors(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let shim = HostProcess::shim_of(daemon, task.id());
    let count = |what: &str| {
        fs::read_dir(format!("/proc/{}/{what}", shim.pid))
            .unwrap()
            .count()
    };
    let round = |execs: usize| {
        for _ in 0..execs {
            task.exec(["true"]).run().expect_exit(0);
        }
    };
    round(10);
    let before = (count("fd"), count("task"));
    round(40);
    let after = (count("fd"), count("task"));
    // A thread or a connection may come and go; one left by each exec may not.
    assert!(
        after.0 < before.0 + 10 && after.1 < before.1 + 10,
        "descriptors and threads: {before:?}, then {after:?}"
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn long_ids(daemon: &Daemon) {
    let id = "i".repeat(64);
    let task = Container::new(daemon).named(&id).args(["sleep", "1000"]).start();
    let exec = task.exec(["true"]).id(&"e".repeat(76));
    exec.run().expect_exit(0);
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn ps_lists_the_sandbox(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let list = || {
        command::succeed(
            Command::new(Settings::get().dist.join("bulkhead")).arg("ps"),
            ORDINARY,
        )
        .text()
    };
    let has = |list: &str| {
        list.lines()
            .any(|line| line.contains(daemon.namespace()) && line.contains(task.id()))
    };
    let running = list();
    assert!(has(&running), "{running}");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    bulkhead_tests::deadline::poll("the sandbox to leave the list", ORDINARY, || {
        (!has(&list())).then_some(())
    });
}

fn doctor_tells_what_executes_guests(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let vmm = HostProcess::shim_of(daemon, task.id()).descendant("qemu-system");
    let mut words = vmm.command.split(' ').skip_while(|word| *word != "-accel");
    let accelerator = words
        .nth(1)
        .and_then(|value| value.split(',').next())
        .expect("an accelerator");
    let doctor = Settings::get().dist.join("bulkhead");
    let output = command::run(Command::new(doctor).args(["doctor", "--json"]), b"", ORDINARY);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let checks = report["checks"].as_array().expect("checks");
    let check = checks
        .iter()
        .find(|check| check["id"] == "accelerator")
        .expect("the check of the accelerator");
    let evidence = check["evidence"].as_str().expect("evidence");
    assert!(evidence.starts_with(accelerator), "{accelerator}: {check}");
    assert!(accelerator != "kvm" || check["status"] == "ok", "{check}");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}
