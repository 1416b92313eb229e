use std::fs;
use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxBlockIoBuilder, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources,
    LinuxResourcesBuilder, LinuxThrottleDeviceBuilder,
};

use super::*;

const HYBRID: &str = "\
31 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 24 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 24 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 24 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
35 24 0:27 /docker/x /run/elsewhere rw - cgroup cgroup rw,memory
36 24 0:27 / /mnt/again rw - cgroup cgroup rw,memory
37 24 0:30 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
38 24 0:31 / /tmp rw - tmpfs cgroup rw
";

#[test]
fn each_hierarchy_is_found_once() {
    let hierarchies = Hierarchies::parse(HYBRID);
    let points: Vec<_> = hierarchies
        .iter()
        .map(|h| h.mount_point.to_str().unwrap())
        .collect();
    let below = |name: &str| format!("/sys/fs/cgroup/{name}");
    let expected = ["cpu", "memory", "systemd", "unified", "net_cls,net_prio"].map(below);
    assert_eq!(points, expected);
    assert!(!hierarchies.is_unified());
    assert!(Hierarchies::parse("31 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").is_unified());
}

fn resources(memory: i64, swap: Option<i64>) -> LinuxResources {
    let mut builder = LinuxMemoryBuilder::default().limit(memory);
    if let Some(swap) = swap {
        builder = builder.swap(swap);
    }
    LinuxResourcesBuilder::default()
        .memory(builder.build().unwrap())
        .cpu(
            LinuxCpuBuilder::default()
                .shares(1024u64)
                .quota(50_000i64)
                .build()
                .unwrap(),
        )
        .pids(LinuxPidsBuilder::default().limit(0).build().unwrap())
        .build()
        .unwrap()
}

fn files(settings: &[Setting]) -> Vec<(&str, &str)> {
    settings
        .iter()
        .map(|setting| (setting.file, setting.value.as_str()))
        .collect()
}

#[test]
fn limits_in_the_words_of_each_version() {
    let resources = resources(1 << 20, Some(3 << 20));
    let v1 = [
        ("memory.limit_in_bytes", "1048576"),
        ("memory.memsw.limit_in_bytes", "3145728"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_quota_us", "50000"),
        ("pids.max", "max"),
    ];
    assert_eq!(files(&limits::v1(&resources)), v1);
    let v2 = [
        ("memory.max", "1048576"),
        ("memory.swap.max", "2097152"),
        ("cpu.weight", "39"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "max"),
    ];
    assert_eq!(files(&limits::v2(&resources)), v2);
}

#[test]
fn block_io_in_the_words_of_each_version() {
    let device = |rate: u64| {
        let limit = LinuxThrottleDeviceBuilder::default()
            .major(8i64)
            .minor(16i64)
            .rate(rate);
        vec![limit.build().unwrap()]
    };
    let io = LinuxBlockIoBuilder::default()
        .weight(10u16)
        .throttle_read_bps_device(device(1024))
        .throttle_write_iops_device(device(0))
        .build()
        .unwrap();
    let v1 = [
        ("blkio.throttle.read_bps_device", "8:16 1024"),
        ("blkio.throttle.write_iops_device", "8:16 0"),
        ("blkio.bfq.weight", "10"),
    ];
    assert_eq!(files(&limits::block_io_v1(&io)), v1);
    let v2 = [
        ("io.max", "8:16 rbps=1024"),
        ("io.max", "8:16 wiops=max"),
        ("io.weight", "1"),
    ];
    assert_eq!(files(&limits::block_io_v2(&io)), v2);
    let nowhere = Hierarchies::parse("").create(Path::new("/a/b")).unwrap();
    assert!(matches!(nowhere.limit_block_io(&io), Err(CgroupError::NoBlockIo)));
    assert!(nowhere.limit_block_io(&LinuxBlockIo::default()).is_ok());
}

#[test]
fn what_is_absent_stays() {
    let nothing = LinuxResources::default();
    assert_eq!(limits::v1(&nothing), []);
    assert_eq!(limits::v2(&nothing), []);
}

#[test]
fn the_vm_is_beside_its_container() {
    assert_eq!(
        sandbox_path(Path::new("/k8s/pod/c1"), "s1"),
        Path::new("/k8s/pod/bulkhead-s1")
    );
    assert_eq!(sandbox_path(Path::new(""), "s1"), Path::new(""));
}

#[test]
fn a_path_that_leaves_the_hierarchy_is_refused() {
    let hierarchies = Hierarchies::parse(HYBRID);
    for path in ["../x", "/a/../../b"] {
        assert!(
            matches!(hierarchies.create(Path::new(path)), Err(CgroupError::Path(_))),
            "{path}"
        );
    }
}

/// A cgroup of this test's own on the host, gone with it.
struct Scratch(PathBuf, Vec<PathBuf>);

impl Scratch {
    fn new(name: &str) -> (Self, Cgroup) {
        let path = PathBuf::from(format!("/bulkhead-test-{name}-{}/c1", std::process::id()));
        let hierarchies = Hierarchies::detect().unwrap();
        let made = hierarchies.missing(&path).unwrap();
        let cgroup = hierarchies.create(&path).unwrap();
        (Self(path, made), cgroup)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.1).unwrap();
    }
}

fn sleeper() -> Child {
    Command::new("/bin/sleep")
        .arg("60")
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_process_joins_everywhere_is_killed_and_leaves_nothing() {
    let (scratch, cgroup) = Scratch::new("join");
    let mut child = sleeper();
    cgroup.enter(child.id()).unwrap();
    let places = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    for line in places.lines() {
        assert!(line.ends_with(scratch.0.to_str().unwrap()), "{line}");
    }
    // Nobody reaps the child while its cgroup is being removed: a zombie is in no cgroup.
    let made = scratch.1.clone();
    drop(scratch);
    assert!(!child.wait().unwrap().success());
    assert!(made.iter().all(|directory| !directory.exists()));
    remove(&made).unwrap();
}

#[test]
fn limits_can_be_lowered_and_raised() {
    let (_scratch, cgroup) = Scratch::new("limits");
    for limit in [64 << 20, 32 << 20, 128 << 20] {
        cgroup.apply(&resources(limit, Some(limit))).unwrap();
        let limits = cgroup.places.iter().flat_map(|(_, directory)| {
            ["memory.limit_in_bytes", "memory.max"].map(|file| fs::read_to_string(directory.join(file)))
        });
        let limits: Vec<_> = limits.flatten().collect();
        assert_eq!(limits, [format!("{limit}\n")]);
    }
}

#[test]
fn the_last_one_out_removes_the_parents_that_were_made() {
    let hierarchies = Hierarchies::detect().unwrap();
    let base = PathBuf::from(format!("/bulkhead-test-parents-{}", std::process::id()));
    let make = |name: &str| {
        let path = base.join("deep").join(name);
        let made = hierarchies.missing(&path).unwrap();
        hierarchies.create(&path).unwrap();
        made
    };
    // The second finds the parents there, and is the last to go.
    let (first, second) = (make("c1"), make("c2"));
    remove(&first).unwrap();
    assert!(second.iter().all(|directory| directory.exists()));
    remove(&second).unwrap();
    assert!(first.iter().all(|directory| !directory.exists()));

    // What was there before us stays.
    let theirs = first[0].clone();
    fs::create_dir(&theirs).unwrap();
    remove(&make("c3")).unwrap();
    assert!(theirs.exists());
    fs::remove_dir(&theirs).unwrap();
}

/// Turns enough for two sandboxes to meet at each step of making and removing what they share.
const TURNS: usize = 300;

#[test]
fn a_parent_that_another_removes_is_made_again() {
    let hierarchies = Hierarchies::detect().unwrap();
    let parent = Path::new("bulkhead-unit-tests").join("shared");
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let (hierarchies, path) = (&hierarchies, parent.join(name));
            scope.spawn(move || {
                for _ in 0..TURNS {
                    let missing = hierarchies.missing(&path).unwrap();
                    hierarchies.create(&path).unwrap();
                    remove(&missing).unwrap();
                }
            });
        }
    });
}
