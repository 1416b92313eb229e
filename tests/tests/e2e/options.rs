//! The options of `ctr run`: what a user asks for is what the container has.

use bulkhead_tests::{Case, Container, Daemon, case, mib};
use serde_json::json;

pub const CASES: &[Case] = &[
    case("env_and_cwd", env_and_cwd),
    case("user", user).since(1, 7),
    case("memory_limit", memory_limit),
    case("cpus", cpus),
    case("read_only_root", read_only_root),
    case("root_is_writable_and_forgotten", root_is_writable_and_forgotten),
    case("capabilities", capabilities),
    case("seccomp", seccomp),
    case("privileged", privileged),
    case("rlimits", rlimits),
    case("no_new_privileges", no_new_privileges),
    case("additional_groups_and_umask", additional_groups_and_umask),
    case("hostname", hostname),
    case("sysctls", sysctls),
    case("masked_and_read_only_paths", masked_and_read_only_paths),
    case("devices", devices),
    case("loopback_is_up", loopback_is_up),
    case("rootfs_directory", rootfs_directory),
    case("tmpfs_mounts", tmpfs_mounts),
    case("oom_score", oom_score),
    case("clock", clock),
    case("entropy", entropy),
];

fn env_and_cwd(daemon: &Daemon) {
    let container = Container::new(daemon).env("WORD", "bulk head").cwd("/tmp");
    container
        .sh("echo $WORD; pwd")
        .run()
        .expect_exit(0)
        .expect_stdout("bulk head\n/tmp\n");
}

fn user(daemon: &Daemon) {
    Container::new(daemon)
        .user("1000:1001")
        .sh("id -u; id -g")
        .run()
        .expect_exit(0)
        .expect_stdout("1000\n1001\n");
}

fn memory_limit(daemon: &Daemon) {
    let script = "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes";
    let container = Container::new(daemon).memory_limit(mib(80)).cgroup_mount();
    container
        .sh(script)
        .run()
        .expect_exit(0)
        .expect_stdout(&format!("{}\n", mib(80)));
}

fn cpus(daemon: &Daemon) {
    let script =
        "cd /sys/fs/cgroup; cat cpu.max 2>/dev/null || cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us";
    let ran = Container::new(daemon)
        .run_flag("--cpus")
        .run_flag("0.5")
        .cgroup_mount()
        .sh(script)
        .run();
    ran.expect_exit(0);
    assert_eq!(
        ran.stdout().split_whitespace().collect::<Vec<_>>(),
        ["50000", "100000"]
    );
}

fn read_only_root(daemon: &Daemon) {
    let ran = Container::new(daemon).read_only().sh("echo x > /file").run();
    assert_ne!(ran.status(), Some(0));
    ran.expect_stderr_contains("Read-only file system");
}

fn root_is_writable_and_forgotten(daemon: &Daemon) {
    for _ in 0..2 {
        let script = "test ! -e /file && echo x > /file && mkdir /dir && ln -s a /dir/link && mv /dir /dir2 && chmod 700 /dir2 && cat /file";
        Container::new(daemon)
            .sh(script)
            .run()
            .expect_exit(0)
            .expect_stdout("x\n");
    }
}

fn capabilities(daemon: &Daemon) {
    // chown needs CAP_CHOWN, which is in ctr's default set; settimeofday's CAP_SYS_TIME (bit 25) is not.
    let effective = |container: Container<'_>| {
        let ran = container.sh("grep CapEff /proc/self/status").run();
        ran.expect_exit(0);
        u64::from_str_radix(ran.stdout().split_whitespace().last().expect("a mask"), 16).expect("hexadecimal")
    };
    let default = effective(Container::new(daemon));
    assert_eq!(default, 0xa804_25fb, "{default:x}");
    let added = effective(Container::new(daemon).flag("--cap-add").flag("CAP_SYS_TIME"));
    assert_eq!(added, default | 1 << 25, "{added:x}");
    let dropped = effective(Container::new(daemon).flag("--cap-drop").flag("CAP_CHOWN"));
    assert_eq!(dropped, default & !1, "{dropped:x}");
}

fn seccomp(daemon: &Daemon) {
    let mode = |container: Container<'_>| {
        let ran = container
            .sh("grep Seccomp: /proc/self/status; unshare -U true && echo unshared")
            .run();
        ran.stdout()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(mode(Container::new(daemon))[..2], ["Seccomp:", "0"]);
    assert_eq!(mode(Container::new(daemon).flag("--seccomp")), ["Seccomp:", "2"]);
}

fn privileged(daemon: &Daemon) {
    let script = "grep CapEff /proc/self/status; mount -t tmpfs none /mnt && echo mounted; test -w /proc/sys/kernel/hostname && echo writable";
    let script = format!("mkdir -p /mnt; {script}");
    let ran = Container::new(daemon).flag("--privileged").sh(&script).run();
    ran.expect_exit(0);
    assert!(ran.stdout().contains("mounted\nwritable\n"), "{}", ran.stdout());
}

fn rlimits(daemon: &Daemon) {
    let container = Container::new(daemon).spec(|spec| {
        spec["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 123, "hard": 456 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_NPROC", "soft": 77, "hard": 88 },
        ]);
    });
    let script = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Su; grep processes /proc/self/limits | tr -s ' ' | cut -d' ' -f4";
    container
        .sh(script)
        .start()
        .finish()
        .expect_exit(0)
        .expect_stdout("123\n456\n0\n77\n88\n");
}

fn no_new_privileges(daemon: &Daemon) {
    Container::new(daemon)
        .sh("grep NoNewPrivs /proc/self/status")
        .run()
        .expect_stdout("NoNewPrivs:\t1\n");
}

fn additional_groups_and_umask(daemon: &Daemon) {
    let container = Container::new(daemon).spec(|spec| {
        spec["process"]["user"] =
            json!({ "uid": 1000, "gid": 1000, "additionalGids": [7, 2000], "umask": 0o027 });
    });
    let task = container.sh("id -G; umask").start();
    task.finish().expect_exit(0).expect_stdout("1000 7 2000\n0027\n");
}

fn hostname(daemon: &Daemon) {
    let container = Container::new(daemon).spec(|spec| spec["hostname"] = json!("ship"));
    container
        .sh("hostname")
        .start()
        .finish()
        .expect_exit(0)
        .expect_stdout("ship\n");
}

fn sysctls(daemon: &Daemon) {
    let container = Container::new(daemon).spec(|spec| {
        spec["linux"]["sysctl"] =
            json!({ "net.ipv4.ip_unprivileged_port_start": "42", "kernel.msgmax": "4242" });
    });
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    container
        .sh(script)
        .start()
        .finish()
        .expect_exit(0)
        .expect_stdout("42\n4242\n");
}

fn masked_and_read_only_paths(daemon: &Daemon) {
    let script = "wc -c < /proc/timer_list; echo x 2>&1 > /proc/sysrq-trigger || echo refused";
    let ran = Container::new(daemon).sh(script).run();
    assert!(ran.stdout().ends_with("refused\n"), "{}", ran.stdout());
}

fn devices(daemon: &Daemon) {
    let script = "for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo no $d; done; \
                  for l in fd stdin stdout stderr; do test -L /dev/$l || echo no $l; done; head -c 3 /dev/zero | wc -c; echo x > /dev/null";
    Container::new(daemon)
        .sh(script)
        .run()
        .expect_exit(0)
        .expect_stdout("3\n");
}

fn loopback_is_up(daemon: &Daemon) {
    let script = "ping -c 1 -W 5 127.0.0.1 > /dev/null && echo answered; (echo hello | nc -l -p 1234 &) ; sleep 1; nc 127.0.0.1 1234 < /dev/null";
    Container::new(daemon)
        .flag("--cap-add")
        .flag("CAP_NET_RAW")
        .sh(script)
        .run()
        .expect_stdout("answered\nhello\n");
}

fn rootfs_directory(daemon: &Daemon) {
    let dir = daemon.unpack_image("rootfs-directory");
    std::fs::write(dir.join("marker"), "from the host\n").unwrap();
    let container = Container::new(daemon).rootfs(&dir);
    // ctr gives no PATH where there is no image to take one from.
    container
        .args(["/bin/sh", "-c", "cat /marker; echo written > /out"])
        .run()
        .expect_exit(0)
        .expect_stdout("from the host\n");
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "written\n");
    std::fs::remove_dir_all(dir).unwrap();
}

fn tmpfs_mounts(daemon: &Daemon) {
    let mount = "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m:mode=700:noexec";
    let script = "stat -c %a /scratch; cat /proc/mounts | grep -c ' /scratch tmpfs.*noexec'; head -c 2000000 /dev/zero > /scratch/x || echo full";
    let ran = Container::new(daemon)
        .flag("--mount")
        .flag(mount)
        .sh(script)
        .run();
    ran.expect_stdout("700\n1\nfull\n");
}

fn oom_score(daemon: &Daemon) {
    let container = Container::new(daemon).spec(|spec| spec["process"]["oomScoreAdj"] = json!(321));
    container
        .sh("cat /proc/self/oom_score_adj")
        .start()
        .finish()
        .expect_exit(0)
        .expect_stdout("321\n");
}

fn clock(daemon: &Daemon) {
    let before = now();
    let ran = Container::new(daemon).args(["date", "+%s"]).run();
    let inside: u64 = ran.stdout().trim().parse().expect("seconds");
    // A second either way: date cuts off what is less.
    assert!(
        inside + 1 >= before && inside <= now() + 1,
        "{before} <= {inside} <= {}",
        now()
    );
}

fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn entropy(daemon: &Daemon) {
    let draw = || {
        Container::new(daemon)
            .sh("head -c 16 /dev/urandom | od -An -tx1")
            .run()
            .stdout()
    };
    assert_ne!(draw(), draw());
}
