//! The guest has the address that the namespace has, whenever it got it.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_oci::NetworkNamespace;
use bulkhead_runtime::network::{Netns, NetworkError};
use bulkhead_runtime::sandbox::{ExitStatus, Sandbox};

use crate::rig::{Rig, Running, read, within};

/// Ten times what the guest's slowest solicitations take.
const FRAMES: Duration = Duration::from_secs(60);

/// Runs iproute2 in a namespace.
fn ip(netns: &Netns, arguments: &str) {
    let run = || {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "ip {arguments}");
        Ok(())
    };
    netns.run(run).unwrap();
}

/// What a CNI plugin does: a veth pair, here with both ends in the same namespace, and an address.
fn plug(netns: &Netns) {
    for arguments in [
        "link add eth0 mtu 1450 type veth peer name far",
        "link set far up",
        "link set eth0 up",
        "addr add 10.99.0.2/24 dev eth0",
        "route add default via 10.99.0.1 dev eth0",
    ] {
        ip(netns, arguments);
    }
}

/// Counts the frames that come out of the far end of eth0.
fn received(netns: &Netns) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev").map_err(NetworkError::Enter);
    let text = netns.run(read).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("far:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

const LOOK: &str = "busybox ip addr show eth0; busybox ip route; busybox ping -c 3 -W 1 10.99.0.1; exit 0";

fn check(output: &str) {
    for expected in ["mtu 1450", "inet 10.99.0.2/24", "default via 10.99.0.1 dev eth0"] {
        assert!(output.contains(expected), "no {expected} in {output}");
    }
}

#[tokio::test]
async fn an_interface_that_is_there_at_launch_is_the_guests() {
    let Some(rig) = Rig::new() else { return };
    let netns = Netns::create().unwrap();
    plug(&netns);
    // As a path: the way a pod's namespace is named.
    let file = File::from(netns.as_fd().try_clone_to_owned().unwrap());
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(&file)
    );
    let mut request = rig.request("s1");
    request.network = NetworkNamespace::Path(path.into());
    let (sandbox, events) = within(Sandbox::launch(request)).await.unwrap();
    let mut running = Running { sandbox, events };
    let before = received(&netns);
    let (status, output) = running.run(rig.container("s1", LOOK, |_| {})).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    check(&output);
    // The exit comes over another device, and may overtake frames that QEMU has yet to send.
    let until = Instant::now() + FRAMES;
    while received(&netns) < before + 3 {
        assert!(
            Instant::now() < until,
            "the guest's frames do not come out of eth0"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    running.end().await;
    rig.assert_clean();
    // The pod's namespace is not ours: everything in it is as it was.
    let filters = || {
        let tc = Command::new("tc")
            .args(["qdisc", "show", "dev", "eth0"])
            .output()
            .unwrap();
        Ok(String::from_utf8(tc.stdout).unwrap())
    };
    assert!(!netns.run(filters).unwrap().contains("ingress"));
    ip(&netns, "link show eth0");
}

#[tokio::test]
async fn an_interface_that_comes_between_create_and_start_is_the_guests() {
    let Some(rig) = Rig::new() else { return };
    let mut running = rig.launch("s1").await;
    let container = running.create(rig.container("s1", LOOK, |_| {})).await;
    let path = format!("/proc/{}/ns/net", container.pid());
    let netns = Netns::open(path.as_ref()).unwrap();
    plug(&netns);
    let streams = container.take_streams().unwrap();
    within(container.start()).await.unwrap();
    check(&within(read(streams)).await);
    assert_eq!(running.exit_of("").await, ExitStatus::Code(0));
    within(container.delete()).await.unwrap();
    running.end().await;
    rig.assert_clean();
}
