//! Limits of block devices: of the container's cgroup under runc, of its VM's where it has one.

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;
use serde_json::{Value, json};

pub const CASES: &[Case] = &[
    case("device_limits_hold", device_limits_hold),
    case("unknown_device_fails_in_create", unknown_device_fails_in_create),
    case("refused_for_one_of_several", refused_for_one_of_several).vm_only(),
];

/// A number that nothing else uses.
const RATE: u64 = 12_345_678;

/// A whole disk of this host, as `major:minor`.
fn disk() -> Option<String> {
    let disks = fs::read_dir("/sys/block").unwrap().flatten();
    let mut real = disks.filter(|disk| disk.path().join("device").exists());
    real.find_map(|disk| fs::read_to_string(disk.path().join("dev")).ok())
        .map(|numbers| numbers.trim().to_owned())
}

fn limit(device: &str) -> Value {
    let (major, minor) = device.split_once(':').unwrap();
    let number = |text: &str| text.parse::<i64>().unwrap();
    let limit = json!({ "major": number(major), "minor": number(minor), "rate": RATE });
    json!({ "throttleReadBpsDevice": [limit] })
}

/// What the kernel limits for `id`; version 1's file, or version 2's.
fn limits_of(daemon: &Daemon, id: &str) -> String {
    let name = if Settings::get().is_vm() {
        format!("bulkhead-{id}")
    } else {
        id.to_owned()
    };
    let group = Path::new(daemon.namespace()).join(name);
    let files: [PathBuf; 2] = [
        Path::new("/sys/fs/cgroup/blkio")
            .join(&group)
            .join("blkio.throttle.read_bps_device"),
        Path::new("/sys/fs/cgroup").join(&group).join("io.max"),
    ];
    let found = files.iter().find_map(|file| fs::read_to_string(file).ok());
    found.unwrap_or_else(|| panic!("no {files:?}"))
}

fn device_limits_hold(daemon: &Daemon) {
    let Some(device) = disk() else {
        eprintln!("skipped: this host has no disk");
        return;
    };
    let block_io = limit(&device);
    let task = Container::new(daemon)
        .args(["sleep", "1000"])
        .spec(move |spec| spec["linux"]["resources"]["blockIO"] = block_io)
        .start();
    let limits = limits_of(daemon, task.id());
    let of_the_device = limits
        .lines()
        .find(|line| line.starts_with(&format!("{device} ")));
    assert!(
        of_the_device.is_some_and(|line| line.contains(&RATE.to_string())),
        "{limits}"
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn unknown_device_fails_in_create(daemon: &Daemon) {
    // Major 0 is never a disk.
    let container = Container::new(daemon)
        .args(["true"])
        .spec(|spec| spec["linux"]["resources"]["blockIO"] = limit("0:9999"));
    let status = container.try_create().err().expect("Create fails");
    assert!(status.message().contains("0:9999"), "{status}");
}

fn refused_for_one_of_several(daemon: &Daemon) {
    let container = Container::new(daemon).args(["true"]).spec(|spec| {
        spec["annotations"] = json!({ "io.containerd.runc.v2.group": "some-pod" });
        spec["linux"]["resources"]["blockIO"] = limit("8:0");
    });
    let status = container.try_create().err().expect("Create fails");
    assert!(status.message().contains("limited as a whole"), "{status}");
}
