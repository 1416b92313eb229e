//! Each test in network namespaces of its own.

use std::fs;
use std::os::fd::AsRawFd;

use bulkhead_agent_protocol::message::{Neighbour, Route};

use super::*;

fn interfaces(netns: &Netns) -> Vec<String> {
    let text = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev").map_err(NetworkError::Enter));
    let mut names: Vec<_> = text
        .unwrap()
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
        .collect();
    names.sort();
    names
}

#[test]
fn a_new_namespace_has_loopback_that_works() {
    let netns = Netns::create().unwrap();
    assert_eq!(interfaces(&netns), ["lo"]);
    netns
        .run(|| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(NetworkError::Enter)?;
            let address = listener.local_addr().map_err(NetworkError::Enter)?;
            std::net::TcpStream::connect(address)
                .map(drop)
                .map_err(NetworkError::Enter)
        })
        .unwrap();
}

#[test]
fn a_namespace_takes_one_tap_which_lives_as_long_as_its_descriptor() {
    let netns = Netns::create().unwrap();
    let tap = netns.make_tap().unwrap();
    assert_eq!(interfaces(&netns), [tap.name(), "lo"]);
    let another = netns.make_tap().unwrap_err();
    assert!(matches!(another, NetworkError::Taken), "{another}");
    drop(tap);
    assert_eq!(interfaces(&netns), ["lo"]);
    netns.make_tap().unwrap();
}

#[test]
fn only_network_namespaces_are_opened() {
    let netns = Netns::create().unwrap();
    let path = format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd());
    Netns::open(Path::new(&path)).unwrap();
    for path in ["/proc/self/ns/uts", "/dev/null", "/no/such"] {
        let error = Netns::open(Path::new(path)).unwrap_err();
        assert!(matches!(error, NetworkError::Open { .. }), "{path}: {error}");
    }
}

/// Runs iproute2 in a namespace: the tests' second opinion.
fn ip(netns: &Netns, arguments: &str) {
    let run = || {
        let status = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .status();
        assert!(status.unwrap().success(), "ip {arguments}");
        Ok(())
    };
    netns.run(run).unwrap();
}

#[tokio::test]
async fn what_a_plugin_has_set_up_is_found() {
    let netns = Netns::create().unwrap();
    let tap = netns.make_tap().unwrap();
    assert_eq!(netns.netlink().unwrap().scan(tap.name()).await.unwrap(), None);
    for arguments in [
        "link add eth1 type veth peer name other",
        "link set eth1 up",
        "link add eth0 address 0a:58:0a:58:00:02 mtu 1450 type veth peer name eth0-host",
        "link set eth0-host up",
        "link set eth0 up",
        "addr add 10.88.0.2/16 dev eth0",
        "addr add fd00::2/64 dev eth0 nodad",
        "route add default via 10.88.0.1 dev eth0",
        "route add 169.254.1.1/32 dev eth0 scope link",
        "route add 10.1.0.0/16 via 10.88.0.1 dev eth0 src 10.88.0.2",
        "neigh add 10.88.0.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent",
    ] {
        ip(&netns, arguments);
    }
    let found = netns
        .netlink()
        .unwrap()
        .scan(tap.name())
        .await
        .unwrap()
        .unwrap()
        .configuration;
    assert_eq!((found.name.as_str(), found.mtu), ("eth0", 1450));
    assert_eq!(found.mac, [0x0a, 0x58, 0x0a, 0x58, 0, 2]);
    assert_eq!(found.addresses, ["10.88.0.2/16", "fd00::2/64"]);
    let route = |destination: &str, gateway: &str, source: &str, scope| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        source: source.into(),
        scope,
    };
    let mut routes = found.routes.clone();
    assert_eq!(routes.remove(0), route("169.254.1.1/32", "", "", 253));
    routes.sort_by(|a, b| a.destination.cmp(&b.destination));
    let expected = [
        route("0.0.0.0/0", "10.88.0.1", "", 0),
        route("10.1.0.0/16", "10.88.0.1", "10.88.0.2", 0),
    ];
    assert_eq!(routes, expected);
    let gateway = Neighbour {
        address: "10.88.0.1".into(),
        mac: vec![0xee; 6],
    };
    assert_eq!(found.neighbours, [gateway]);
}

#[tokio::test]
async fn joined_interfaces_pass_frames_both_ways_until_parted() {
    use std::os::fd::AsFd;

    let netns = Netns::create().unwrap();
    let tap = netns.make_tap().unwrap();
    for arguments in [
        "link add eth0 type veth peer name far",
        "link set far up",
        "link set eth0 up",
    ] {
        ip(&netns, arguments);
    }
    let netlink = netns.netlink().unwrap();
    let eth0 = netlink.scan(tap.name()).await.unwrap().unwrap();
    for _ in 0..2 {
        netlink.join(eth0.index, tap.name(), 1400).await.unwrap();
    }
    // An ARP request for an address nobody has, sent at the far end, must come out of the tap, and back.
    let far = netns
        .run(|| tap::tests_socket("far").map_err(NetworkError::Enter))
        .unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 7, 0x88, 0xb5]);
    frame.extend([0x42; 46]);
    rustix::io::write(&far, &frame).unwrap();
    let with_header = |frame: &[u8]| [&[0; 10], frame].concat();
    let mut seen = [0; 2048];
    let seen = loop {
        let length = rustix::io::read(tap.as_fd(), &mut seen).unwrap();
        // IPv6 says hello on its own.
        if seen[10 + 12..10 + 14] == [0x88, 0xb5] {
            break &seen[..length];
        }
    };
    assert_eq!(seen[10..], frame);
    rustix::io::write(tap.as_fd(), &with_header(&frame)).unwrap();
    let mut back = [0; 2048];
    let back = loop {
        let length = rustix::io::read(&far, &mut back).unwrap();
        if back[12..14] == [0x88, 0xb5] {
            break &back[..length];
        }
    };
    assert_eq!(back, frame);
    tokio::task::spawn_blocking(move || {
        netns.part_blocking("eth0").unwrap();
        netns.part_blocking("eth0").unwrap();
        netns.part_blocking("gone").unwrap();
    })
    .await
    .unwrap();
}
