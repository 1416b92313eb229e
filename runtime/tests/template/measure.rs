//! Not a check: where the time of a restore goes. Processor time tells more than the clock on a host that does
//! other things too. With the programs of an install folder, since those of this profile are slow:
//! `BULKHEAD_DIST=DIR cargo test -p bulkhead-runtime --test template -- --ignored --nocapture measure`

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::{Body, ConfigureSandbox};
use bulkhead_runtime::agent::AgentClient;
use bulkhead_runtime::state::SandboxState;
use serde_json::{Value, json};

use crate::bare::Bare;
use crate::rig::{Rig, read, within};
use crate::{build, path, rig};

const ROUNDS: usize = 11;
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_restore() {
    let Some(mut rig) = rig() else { return };
    with_dist(&mut rig);
    build(&rig).await.unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path(&rig).await).unwrap());
    println!("the template takes {} KiB", blocks / 2);
    let mut phases = Phases::new(&["load", "wake", "configure"]);
    for _ in 0..ROUNDS {
        let mut clock = phases.begin();
        let vm = Bare::restore(&rig).await;
        let monitor = vm.instance.processes()[1].pid;
        clock.end_of(0, monitor);
        let (agent, _events) = AgentClient::connect(vm.wake().await);
        agent.hello(SOON).await.unwrap();
        clock.end_of(1, monitor);
        let configure = ConfigureSandbox {
            hostname: "measured".into(),
            unix_time_ns: 1 << 60,
            entropy: vec![7; 64],
        };
        let configure = Body::ConfigureSandbox(configure);
        within(agent.order("ConfigureSandbox", configure, SOON))
            .await
            .unwrap();
        clock.end_of(2, monitor);
        println!("KiB of its own, of the guest, of files: {:?}", weight(monitor));
        vm.end().await;
    }
    phases.print();
}

/// QEMU's processor time and the clock's, for each of some phases.
struct Phases(Vec<(&'static str, Vec<(Duration, Duration)>)>);

struct Round<'a> {
    phases: &'a mut Phases,
    processor: Duration,
    clock: Instant,
}

impl Phases {
    fn new(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, Vec::new())).collect())
    }

    fn begin(&mut self) -> Round<'_> {
        Round {
            phases: self,
            processor: Duration::ZERO,
            clock: Instant::now(),
        }
    }

    fn print(self) {
        for (name, times) in self.0 {
            let mut processor: Vec<_> = times.iter().map(|(processor, _)| *processor).collect();
            let mut clock: Vec<_> = times.iter().map(|(_, clock)| *clock).collect();
            processor.sort();
            clock.sort();
            println!(
                "{name}: QEMU's processor time min {:?} median {:?}, clock min {:?} median {:?}",
                processor[0],
                processor[processor.len() / 2],
                clock[0],
                clock[clock.len() / 2]
            );
        }
    }
}

impl Round<'_> {
    fn end_of(&mut self, phase: usize, monitor: u32) {
        let (clock, processor) = (Instant::now(), processor_time(monitor));
        let spent = (processor - self.processor, clock - self.clock);
        self.phases.0[phase].1.push(spent);
        (self.clock, self.processor) = (clock, processor);
    }
}

/// Uses the programs of an install folder, if one is named.
fn with_dist(rig: &mut Rig) {
    if let Some(dist) = std::env::var_os("BULKHEAD_DIST").map(PathBuf::from) {
        // The kernel for translation is found beside it.
        rig.config.kernel = dist.join("vmlinux");
        rig.config.initramfs = dist.join("initramfs.cpio");
        let qemu = dist.join("qemu-system-x86_64");
        if qemu.is_file() && std::env::var_os("BULKHEAD_QEMU").is_none() {
            rig.config.qemu = qemu;
        }
        rig.config.helpers = dist;
    }
}

/// What `ctr run` asks for, in what matters here.
fn as_containerd_does(config: &mut Value) {
    let flags = ["nosuid", "noexec", "nodev"];
    let mount = |kind: &str, at: &str, more: &[&str]| {
        let options: Vec<_> = flags.iter().chain(more).collect();
        json!({"destination": at, "type": kind, "source": kind, "options": options})
    };
    config["mounts"] = json!([
        mount("proc", "/proc", &[]),
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        mount("mqueue", "/dev/mqueue", &[]),
        mount("sysfs", "/sys", &["ro"]),
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    ]);
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE",
    ]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = capabilities.clone();
    }
    config["process"]["noNewPrivileges"] = json!(true);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]);
    let linux = &mut config["linux"];
    linux["maskedPaths"] = json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
        "/proc/scsi",
    ]);
    linux["readonlyPaths"] = json!([
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger"
    ]);
    linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "cgroup"}));
}

/// Of a whole start.
#[tokio::test]
#[ignore = "a measurement"]
async fn measure_start() {
    let Some(mut rig) = rig() else { return };
    with_dist(&mut rig);
    build(&rig).await.unwrap();
    let mut phases = Phases::new(&["launch", "create", "output"]);
    for round in 0..ROUNDS {
        let id = format!("s{round}");
        let mut clock = phases.begin();
        let running = rig.launch(&id).await;
        let state = SandboxState::read(&rig.config.state_dir.join("test").join(&id));
        let monitor = state.unwrap().unwrap().vmm[1].pid;
        clock.end_of(0, monitor);
        let container = running
            .create(rig.container(&id, "echo up", as_containerd_does))
            .await;
        let streams = container.take_streams().unwrap();
        clock.end_of(1, monitor);
        within(container.start()).await.unwrap();
        assert_eq!(within(read(streams)).await, "up\n");
        clock.end_of(2, monitor);
        within(container.delete()).await.unwrap();
        running.end().await;
    }
    phases.print();
}

/// Of all threads of a process.
fn processor_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let time = |thread: fs::DirEntry| -> u64 {
        let text = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    Duration::from_nanos(threads.flatten().map(time).sum())
}

/// What a process weighs, in KiB: its own memory, the guest's, and its part of files.
fn weight(pid: u32) -> [u64; 3] {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    ["Pss_Anon:", "Pss_Shmem:", "Pss_File:"].map(|name| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    })
}
