//! The agent in a real VM: the guest itself, from boot to power-off.

mod support;

use bulkhead_agent_protocol::message::*;
use support::{boot, read_all};

#[tokio::test]
async fn a_container_runs_and_the_vm_powers_off() {
    let Some(mut vm) = boot().await else { return };
    assert!(vm.hello.kernel_release.ends_with("-bulkhead"), "{:?}", vm.hello);
    assert!(vm.hello.ready_ns > vm.hello.agent_started_ns);
    let hello = vm.container("hello").sh("echo out; echo err >&2; exit 7");
    let streams = vm.run(&hello).await;
    let stderr = tokio::spawn(read_all(streams.stderr.unwrap()));
    assert_eq!(read_all(streams.stdout).await, "out\n");
    assert_eq!(stderr.await.unwrap(), "err\n");
    let exited = vm.exit().await;
    assert_eq!(
        (exited.container_id.as_str(), exited.exec_id.as_str()),
        ("hello", "")
    );
    assert_eq!(exited.status, Some(ExitStatus::Code(7)));
    assert!(
        exited.unix_time_ns > 1_800_000_000_000_000_000,
        "the clock was not set"
    );
    vm.delete("hello", "").await;
    vm.done(Body::Shutdown(Shutdown {})).await;
    assert!(vm.gone().await.success());
}

#[tokio::test]
async fn the_vm_ends_when_the_host_is_gone() {
    let Some(vm) = boot().await else { return };
    let sleeper = vm.container("sleeper").args(&["sleep", "1000"]);
    let _streams = vm.run(&sleeper).await;
    vm.link.close();
    assert!(vm.gone().await.success());
}

#[tokio::test]
async fn what_was_written_to_the_share_survives_a_shutdown() {
    let Some(mut vm) = boot().await else { return };
    let writer = vm
        .container("writer")
        .sh("echo kept > /kept; echo ready; sleep 1000");
    let mut streams = vm.run(&writer).await;
    streams.hear("ready").await;
    vm.done(Body::Shutdown(Shutdown {})).await;
    assert_eq!(vm.exit().await.status, Some(ExitStatus::Signal(9)));
    let kept = vm.directory.path().join("share/writer/rootfs/kept");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "kept\n");
}

#[tokio::test]
async fn the_network_becomes_the_pods_and_can_be_changed() {
    let Some(vm) = boot().await else { return };
    let route = |destination: &str, gateway: &str, scope| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        source: String::new(),
        scope,
    };
    let mut network = ConfigureNetwork {
        name: "eth0".into(),
        mac: vec![2, 0, 0, 0, 0, 9],
        mtu: 1450,
        addresses: vec!["10.88.0.2/32".into(), "fd00::2/64".into()],
        routes: vec![
            route("169.254.1.1/32", "", 253),
            route("", "169.254.1.1", 0),
            route("", "fd00::1", 0),
        ],
        neighbours: vec![Neighbour {
            address: "169.254.1.1".into(),
            mac: vec![0xee; 6],
        }],
    };
    vm.done(Body::ConfigureNetwork(network.clone())).await;
    let show = "ip addr show eth0; ip route; ip -6 route; cat /proc/net/arp; ip addr show lo";
    let first = vm.container("first").sh(show);
    let seen = vm.run(&first).await.finish().await;
    for expected in [
        "mtu 1450",
        "02:00:00:00:00:09",
        "inet 10.88.0.2/32",
        "inet6 fd00::2/64",
        "default via 169.254.1.1 dev eth0",
        "default via fd00::1 dev eth0",
        "ee:ee:ee:ee:ee:ee",
        "inet 127.0.0.1/8",
    ] {
        assert!(seen.contains(expected), "{expected} is not in\n{seen}");
    }
    network.addresses = vec!["10.99.0.7/24".into()];
    network.routes = vec![route("", "10.99.0.1", 0)];
    network.neighbours.clear();
    vm.done(Body::ConfigureNetwork(network.clone())).await;
    let second = vm.container("second").sh(show);
    let seen = vm.run(&second).await.finish().await;
    assert!(
        seen.contains("inet 10.99.0.7/24") && seen.contains("default via 10.99.0.1"),
        "{seen}"
    );
    assert!(!seen.contains("10.88.0.2") && !seen.contains("fd00::2"), "{seen}");
    network.mac.pop();
    let failed = vm.fails(Body::ConfigureNetwork(network)).await;
    assert_eq!(failed.kind(), FailureKind::InvalidArgument);
}

#[tokio::test]
async fn randomness_clock_and_name_come_from_the_host() {
    let Some(vm) = boot().await else { return };
    let configure = |entropy: Vec<u8>, hostname: &str| {
        let unix_time_ns = 1_900_000_000_000_000_000;
        Body::ConfigureSandbox(ConfigureSandbox {
            hostname: hostname.into(),
            unix_time_ns,
            entropy,
        })
    };
    assert_eq!(
        vm.fails(configure(vec![0; 31], "x")).await.kind(),
        FailureKind::InvalidArgument
    );
    assert_eq!(
        vm.fails(configure(vec![0; 32], &"x".repeat(65))).await.kind(),
        FailureKind::InvalidArgument
    );
    vm.done(configure(vec![0; 32], "sandbox-name")).await;
    vm.done(Body::SyncClock(SyncClock {
        unix_time_ns: 1_950_000_000_000_000_000,
    }))
    .await;
    let namespaces = serde_json::json!([{"type": "pid"}, {"type": "mount"}]);
    let container = vm
        .container("c")
        .sh("hostname; date +%Y")
        .with("/linux/namespaces", namespaces);
    assert_eq!(vm.run(&container).await.finish().await, "sandbox-name\n2031\n");
    vm.done(Body::Ping(Ping {})).await;
}
