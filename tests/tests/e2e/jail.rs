//! What confines the processes of a sandbox that containerd runs, seen from the host. Each item alone is looked
//! at in `runtime/tests/jail.rs`; here is what only the whole can show.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bulkhead_tests::host::HostProcess;
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("no_process_of_the_vm_could_harm_the_host", no_process_could_harm)
        .vm_only()
        .core(),
    case("sandboxes_have_different_users", different_users).vm_only(),
    case("all_is_charged_to_the_sandbox", all_is_charged).vm_only(),
    case("the_monitor_is_killed_before_the_shim", killed_before_the_shim).vm_only(),
    case("devices_that_were_not_meant_cannot_be_opened", devices_are_few)
        .vm_only()
        .core(),
    case("the_guests_kernel_has_no_way_in", guest_kernel_is_closed).vm_only(),
];

/// QEMU and its parent have no capability; serving files for any user takes eight.
const CAPABILITIES: [(&str, &str); 3] = [
    ("qemu-system", "0000000000000000"),
    ("bulkhead-vmm", "0000000000000000"),
    ("bulkhead-fs", "00000000880000db"),
];

/// What would let root in the guest change its kernel. Prints what is there of it, and what an error in it does.
const WAYS_INTO_THE_KERNEL: &str = "zcat /proc/config.gz >/dev/null || exit 1
    zcat /proc/config.gz | grep -E '^CONFIG_(MODULES|DEVMEM|KEXEC|KEXEC_FILE|HIBERNATION|PROC_KCORE)='
    ls /proc/modules /proc/kcore /dev/mem /dev/port /sys/kernel/kexec_loaded 2>/dev/null
    cat /proc/sys/kernel/panic_on_oops";

fn sleeper(daemon: &Daemon) -> Task<'_> {
    let task = Container::new(daemon).sh("echo up; sleep 1000").start();
    task.stdio.stdout().wait_for("up");
    task
}

fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn no_process_could_harm(daemon: &Daemon) {
    let task = sleeper(daemon);
    let shim = HostProcess::shim_of(daemon, task.id());
    for (name, capabilities) in CAPABILITIES {
        let process = shim.descendant(name);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(&process, set), capabilities, "{name} {set}");
        }
        assert_eq!(status(&process, "CapAmb"), "0000000000000000", "{name}");
        assert_eq!(status(&process, "NoNewPrivs"), "1", "{name}");
        assert_eq!(status(&process, "Seccomp"), "2", "{name}");
        for kind in ["mnt", "ipc", "uts", "net", "cgroup", "pid_for_children"] {
            assert_ne!(namespace(&process, kind), namespace(&shim, kind), "{name} {kind}");
        }
        let root = PathBuf::from(format!("/proc/{}/root", process.pid));
        for file in ["etc/passwd", "proc/1", "bin/sh", "run/containerd"] {
            assert!(!root.join(file).exists(), "{name} sees the host's {file}");
        }
    }
    let monitor = shim.descendant("qemu-system");
    let root = PathBuf::from(format!("/proc/{}/root", monitor.pid));
    assert!(fs::write(root.join("planted"), "").is_err());
    end(&task);
}

fn different_users(daemon: &Daemon) {
    let (one, other) = (sleeper(daemon), sleeper(daemon));
    let user = |task: &Task<'_>| {
        let monitor = HostProcess::shim_of(daemon, task.id()).descendant("qemu-system");
        assert_eq!(status(&monitor, "Groups"), "");
        status(&monitor, "Uid")
    };
    assert_ne!(user(&one), user(&other));
    assert!(!user(&one).split_whitespace().any(|user| user == "0"));
    end(&one);
    end(&other);
}

fn all_is_charged(daemon: &Daemon) {
    let task = sleeper(daemon);
    let shim = HostProcess::shim_of(daemon, task.id());
    let ours = format!("bulkhead-{}", task.id());
    for (name, _) in CAPABILITIES {
        let process = shim.descendant(name);
        let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
        // Those of hierarchies that nobody limits anything in stay at their root.
        let memory = groups
            .lines()
            .find(|line| line.contains(":memory:") || line.starts_with("0::/") && groups.lines().count() == 1)
            .unwrap_or_else(|| panic!("no memory controller in {groups}"));
        assert!(memory.ends_with(&ours), "{name}: {memory}");
    }
    let monitor = shim.descendant("qemu-system");
    let resident = guest_memory_kib(monitor.pid);
    let charged = shared_memory_kib(monitor.pid);
    assert!(
        charged >= resident,
        "{charged} KiB charged, {resident} KiB of guest memory"
    );
    end(&task);
}

fn killed_before_the_shim(daemon: &Daemon) {
    let task = sleeper(daemon);
    let shim = HostProcess::shim_of(daemon, task.id());
    let score = |process: &HostProcess| -> i32 {
        let text = fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).unwrap();
        text.trim().parse().unwrap()
    };
    for (name, _) in CAPABILITIES {
        assert!(score(&shim.descendant(name)) > score(&shim), "{name}");
    }
    end(&task);
}

fn guest_kernel_is_closed(daemon: &Daemon) {
    let task = Container::new(daemon).sh(WAYS_INTO_THE_KERNEL).start();
    task.finish().expect_exit(0).expect_stdout("1\n");
}

/// Says of each path whether it can be read, from within the cgroup of another process in every hierarchy.
const OPEN_IN_CGROUP: &str = "while read -r procs; do echo 0 > \"$procs\" || exit 1; done
    for path; do if true < \"$path\"; then echo yes; else echo no; fi; done";

fn devices_are_few(daemon: &Daemon) {
    let task = sleeper(daemon);
    let shim = HostProcess::shim_of(daemon, task.id());
    let ours = format!("bulkhead-{}", task.id());
    let monitor = shim.descendant("qemu-system");
    let directories = cgroup_directories(monitor.pid, &ours);
    // Version 1 says it itself.
    let list = directories
        .iter()
        .find(|directory| directory.starts_with("/sys/fs/cgroup/devices"));
    if let Some(list) = list {
        let list = fs::read_to_string(list.join("devices.list")).unwrap();
        assert_eq!(list, "c 1:3 rwm\nc 10:232 rwm\nc *:* m\nb *:* m\n");
    }
    let procs = directories
        .iter()
        .map(|directory| format!("{}/cgroup.procs\n", directory.display()));
    let output = with_input(
        Command::new("/bin/sh").args([
            "-c",
            OPEN_IN_CGROUP,
            "sh",
            "/dev/null",
            "/dev/zero",
            "/dev/urandom",
            "/dev/net/tun",
        ]),
        &procs.collect::<String>(),
    );
    assert_eq!(output, "yes\nno\nno\nno\n");
    end(&task);
}

/// Where a process is that is in a cgroup of this name.
fn cgroup_directories(process: u32, name: &str) -> Vec<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let places = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        if !path.ends_with(name) {
            return None;
        }
        let hierarchy = match controllers.strip_prefix("name=").unwrap_or(controllers) {
            "" if Path::new("/sys/fs/cgroup/unified").exists() => "/unified",
            "" => "",
            other => &format!("/{other}"),
        };
        Some(PathBuf::from(format!("/sys/fs/cgroup{hierarchy}{path}")))
    });
    places.collect()
}

/// What it prints.
fn with_input(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn status(process: &HostProcess, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .unwrap();
    line.trim().to_owned()
}

fn namespace(process: &HostProcess, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).unwrap()
}

/// What of the guest's memory is there.
fn guest_memory_kib(monitor: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{monitor}/smaps")).unwrap();
    let from = text.find("memfd:memory-backend-memfd").unwrap();
    let line = text[from..]
        .lines()
        .find(|line| line.starts_with("Rss:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What shared memory its cgroup pays for.
fn shared_memory_kib(process: u32) -> u64 {
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap();
    let v1 = groups.lines().find_map(|line| line.split_once(":memory:"));
    let directory = match v1 {
        Some((_, path)) => format!("/sys/fs/cgroup/memory{path}"),
        None => format!("/sys/fs/cgroup{}", groups.trim().strip_prefix("0::").unwrap()),
    };
    let text = fs::read_to_string(Path::new(&directory).join("memory.stat")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("shmem ")).unwrap();
    line.parse::<u64>().unwrap() / 1024
}
