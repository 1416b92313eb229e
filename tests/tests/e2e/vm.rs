//! What only a VM can show: another kernel, and a host that cannot be reached.

use std::fs;
use std::os::unix::fs::MetadataExt;

use bulkhead_tests::host::HostProcess;
use bulkhead_tests::{Case, Container, Daemon, case, deadline, mib};
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("kernel_is_not_the_hosts", kernel_is_not_the_hosts)
        .vm_only()
        .core(),
    case("processes_of_the_sandbox", processes_of_the_sandbox).vm_only(),
    case("anchor_shows_the_rootfs_not_the_host", anchor_shows_the_rootfs).vm_only(),
    case("memory_is_sized_by_the_limit", memory_is_sized_by_the_limit).vm_only(),
    case("freed_memory_is_given_back", freed_memory_is_given_back).vm_only(),
    case(
        "container_sees_no_other_processes",
        container_sees_no_other_processes,
    ),
];

fn kernel_is_not_the_hosts(daemon: &Daemon) {
    let host = nix::sys::utsname::uname().expect("uname");
    let ran = Container::new(daemon).args(["uname", "-r"]).run();
    ran.expect_exit(0);
    assert_ne!(ran.stdout().trim(), host.release().to_string_lossy());
}

fn processes_of_the_sandbox(daemon: &Daemon) {
    let task = Container::new(daemon).args(["sleep", "1000"]).start();
    let shim = HostProcess::shim_of(daemon, task.id());
    let vmm = shim.descendant("qemu-system");
    assert!(
        !vmm.command.contains(task.id()),
        "the VM's command line tells nothing of its container: {}",
        vmm.command
    );
    shim.descendant("bulkhead-fs");
    let anchor = shim
        .descendants()
        .into_iter()
        .find(|process| process.pid == task.pid());
    assert!(
        anchor.is_some(),
        "the task's pid {} is a child of the shim",
        task.pid()
    );
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn anchor_shows_the_rootfs(daemon: &Daemon) {
    let task = Container::new(daemon)
        .sh("echo inside > /marker; echo up; sleep 1000")
        .start();
    task.stdio.stdout().wait_for("up");
    let root = format!("/proc/{}/root", task.pid());
    let here = fs::metadata("/").unwrap();
    let there = fs::metadata(&root).unwrap();
    assert_ne!(
        (here.dev(), here.ino()),
        (there.dev(), there.ino()),
        "the host's root behind the task's pid"
    );
    assert_eq!(fs::read_to_string(format!("{root}/marker")).unwrap(), "inside\n");
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn memory_is_sized_by_the_limit(daemon: &Daemon) {
    let total = |limit: u64| {
        let container = Container::new(daemon).memory_limit(limit);
        let ran = container.sh("grep MemTotal /proc/meminfo | tr -dc 0-9").run();
        ran.stdout().parse::<u64>().expect("a number of KiB") * 1024
    };
    let small = total(mib(64));
    let large = total(mib(1024));
    assert!(
        small >= mib(64) && large >= mib(1024) && large > small,
        "{small} and {large}"
    );
}

/// By a VM that was booted, and by one that was restored: the first of a class makes the template of the second.
fn freed_memory_is_given_back(daemon: &Daemon) {
    const FILL: u64 = 512;
    let room = format!("type=tmpfs,src=tmpfs,dst=/fill,options=size={}m", 2 * FILL);
    for _ in 0..2 {
        let container = Container::new(daemon).memory_limit(mib(3 * FILL));
        let container = container.flag("--mount").flag(room.clone());
        let task = container.args(["sleep", "1000"]).start();
        let vmm = HostProcess::shim_of(daemon, task.id()).vmm();
        let before = vmm.pss() * 1024;
        task.sh(&format!("dd if=/dev/zero of=/fill/file bs=1M count={FILL}"))
            .expect_exit(0);
        assert!(vmm.pss() * 1024 > before + mib(FILL / 2), "the fill is not seen");
        task.sh("rm /fill/file").expect_exit(0);
        deadline::poll("the host to have it back", deadline::LONG, || {
            (vmm.pss() * 1024 < before + mib(FILL / 4)).then_some(())
        });
        task.kill(SIGKILL);
        task.finish().expect_exit(137);
    }
}

fn container_sees_no_other_processes(daemon: &Daemon) {
    let ran = Container::new(daemon).sh("ls /proc | grep -c '^[0-9]'").run();
    let seen: u32 = ran.stdout().trim().parse().expect("a number");
    assert!(seen <= 5, "{seen} processes in a container that runs a pipe");
}
