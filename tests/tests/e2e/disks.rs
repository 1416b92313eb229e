//! Root file systems that are disks of the VM: ext4 images, and erofs layers with a writable one on top.

use std::fs;
use std::path::Path;

use bulkhead_tests::deadline::ORDINARY;
use bulkhead_tests::disk_images::{self, order};
use bulkhead_tests::loop_device::Loop;
use bulkhead_tests::settings::Settings;
use bulkhead_tests::{Case, Container, Daemon, case, command};
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("blockfile_snapshot", blockfile_snapshot).since(2, 1),
    case("blockfile_keeps_what_is_written", blockfile_keeps).since(2, 1),
    case("erofs_layers", erofs_layers).since(2, 3),
    case("erofs_keeps_what_is_written", erofs_keeps).since(2, 3),
    case("failed_create_leaves_no_disk", failed_create).since(2, 3),
    case("containers_at_once", containers_at_once).since(2, 3),
    case("root_on_a_block_device", root_on_a_block_device),
    case("erofs_root_on_a_block_device", erofs_root_on_a_block_device).since(2, 1),
];

const BLOCKFILE: &str = "blockfile";
const EROFS: &str = "erofs";

fn on<'d>(daemon: &'d Daemon, snapshotter: &str) -> Container<'d> {
    Container::new(daemon).flag("--snapshotter").flag(snapshotter)
}

/// The type of the root's file system, and what it is on. With runc it is an overlay or a loop device.
fn root_of(mounts: &str) -> (String, String) {
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(1) == Some("/"))
        .unwrap();
    let mut words = root.split(' ');
    (
        words.nth(2).unwrap().to_owned(),
        root.split(' ').next().unwrap().to_owned(),
    )
}

fn blockfile_snapshot(daemon: &Daemon) {
    let ran = on(daemon, BLOCKFILE)
        .sh("cat /proc/mounts; echo new > /file && cat /file; ls /dev")
        .run();
    let output = ran.stdout();
    let (fstype, device) = root_of(&output);
    assert_eq!(fstype, "ext4");
    if Settings::get().is_vm() {
        assert!(device.starts_with("/dev/sd"), "{device}");
    }
    assert!(output.lines().any(|line| line == "new"), "{output}");
    assert!(!output.lines().any(|line| line.starts_with("sd")), "{output}");
}

fn blockfile_keeps(daemon: &Daemon) {
    keeps(daemon, BLOCKFILE);
}

fn erofs_keeps(daemon: &Daemon) {
    keeps(daemon, EROFS);
}

/// A second task of the same container finds what the first has written.
fn keeps(daemon: &Daemon, snapshotter: &str) {
    let container = on(daemon, snapshotter).sh("echo x >> /file; cat /file");
    let id = container.id().to_owned();
    let mut run = daemon.ctr(["run"]);
    run.args(container.ctr_arguments());
    assert_eq!(command::succeed(&mut run, ORDINARY).text(), "x\n");
    // `ctr run` has deleted the first task; the container is still there.
    let again = command::succeed(&mut daemon.ctr(["tasks", "start", &id]), ORDINARY);
    assert_eq!(again.text(), "x\nx\n");
    daemon.remove(&id);
}

fn erofs_layers(daemon: &Daemon) {
    let task = on(daemon, EROFS).args(["sleep", "1000"]).start();
    let mounts = task.sh("cat /proc/mounts").text();
    assert_eq!(root_of(&mounts).0, "overlay");
    task.sh("rm /bin/ls; echo changed > /etc/passwd; cat /etc/passwd")
        .expect_exit(0)
        .expect_stdout("changed\n");
    // A layer is another container's too.
    let other = on(daemon, EROFS).sh("ls /bin/ls; wc -l < /etc/passwd").run();
    assert!(other.stdout().starts_with("/bin/ls\n"), "{}", other.stdout());
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn failed_create(daemon: &Daemon) {
    for snapshotter in [BLOCKFILE, EROFS] {
        let created = on(daemon, snapshotter).args(["/no/such/program"]).try_create();
        let error = created.err().expect("there is no such program");
        assert!(error.message().contains("no such file"), "{error}");
    }
}

fn containers_at_once(daemon: &Daemon) {
    let tasks: Vec<_> = [BLOCKFILE, EROFS, EROFS]
        .map(|snapshotter| on(daemon, snapshotter).args(["sleep", "1000"]).start())
        .into();
    for task in &tasks {
        task.sh("echo alive > /file; cat /file").expect_stdout("alive\n");
    }
    for task in tasks {
        task.kill(SIGKILL);
        task.finish().expect_exit(137);
    }
}

/// As a device-mapper snapshotter orders it; what is written is on the device.
fn root_on_a_block_device(daemon: &Daemon) {
    let (tree, image) = (daemon.path("ext4-tree"), daemon.path("root.ext4"));
    disk_images::tree(daemon, &tree);
    disk_images::ext4_of(&image, &tree);
    let device = Loop::of(&image);
    for expected in ["x\n", "x\nx\n"] {
        let task = Container::new(daemon)
            .mounts(vec![order("ext4", device.path(), &["rw"])])
            .args(["sleep", "1000"])
            .start();
        let (fstype, source) = root_of(&task.sh("cat /proc/mounts").text());
        assert_eq!(fstype, "ext4");
        if Settings::get().is_vm() {
            assert!(source.starts_with("/dev/sd"), "{source}");
        }
        task.sh("echo x >> /file; cat /file").expect_stdout(expected);
        task.kill(SIGKILL);
        task.finish().expect_exit(137);
    }
    device.detach();
    remove(&tree, &image);
}

fn erofs_root_on_a_block_device(daemon: &Daemon) {
    let (tree, image) = (daemon.path("erofs-tree"), daemon.path("root.erofs"));
    disk_images::tree(daemon, &tree);
    disk_images::erofs(&image, &tree);
    let device = Loop::read_only(&image);
    let task = Container::new(daemon)
        .mounts(vec![order("erofs", device.path(), &["ro"])])
        .args(["sleep", "1000"])
        .start();
    assert_eq!(root_of(&task.sh("cat /proc/mounts").text()).0, "erofs");
    task.sh("(echo x > /file) 2>/dev/null || echo refused; ls /bin/ls")
        .expect_stdout("refused\n/bin/ls\n");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    device.detach();
    remove(&tree, &image);
}

fn remove(tree: &Path, image: &Path) {
    fs::remove_dir_all(tree).unwrap();
    fs::remove_file(image).unwrap();
}
