//! Sandboxes as a dead shim leaves them. What is killed here are children of the test.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount as mount_fs};
use oci_spec::runtime::HookBuilder;

use super::*;
use crate::process::ProcessIdentity;
use crate::testing::in_private_mounts;

/// A process that holds the lock as a VM's do.
fn holder(lock: &fs::File) -> Child {
    let inherited = OwnedFd::from(lock.try_clone().unwrap());
    Command::new("/bin/sleep")
        .arg("60")
        .stdin(Stdio::from(inherited))
        .spawn()
        .unwrap()
}

fn identity(child: &Child) -> ProcessIdentity {
    ProcessIdentity::of(child.id()).unwrap()
}

fn tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount_fs(Some("t"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// A state directory with one sandbox, `s1`, of containers `s1` and `c2`.
struct Leftover {
    base: tempfile::TempDir,
    config: Config,
    state: SandboxState,
}

impl Leftover {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: base.path().join("state"),
            ..Config::default()
        };
        let mut state = SandboxState::new("ns", "s1", boot_id().unwrap());
        for id in ["s1", "c2"] {
            let bundle = base.path().join("bundles").join(id);
            fs::create_dir_all(bundle.join("rootfs")).unwrap();
            let container = ContainerState {
                bundle,
                ..ContainerState::default()
            };
            state.containers.insert(id.into(), container);
        }
        let leftover = Self { base, config, state };
        fs::create_dir_all(leftover.directory()).unwrap();
        leftover
    }

    fn directory(&self) -> PathBuf {
        directory::path_of(&self.config.state_dir, "ns", "s1")
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.base.path().join("bundles").join(id)
    }

    fn write(&self) {
        self.state.write(&self.directory()).unwrap();
    }

    fn clean(&self, id: &str) -> Result<(), CleanupError> {
        container(&self.config, "ns", "s1", id, &self.bundle(id))
    }
}

#[test]
fn everything_of_a_dead_shims_sandbox_goes() {
    in_private_mounts(|| {
        let mut left = Leftover::new();
        let lock = open_lock_of(&left);
        let (mut vmm, mut anchor) = (holder(&lock), holder(&lock));
        drop(lock);
        left.state.vmm = vec![identity(&vmm)];
        let shared = left.directory().join("shared");
        tmpfs(&shared);
        tmpfs(&shared.join("s1/rootfs"));
        tmpfs(&left.bundle("s1").join("rootfs"));
        let log = left.base.path().join("poststop");
        let bundle = left.bundle("s1");
        let container = left.state.containers.get_mut("s1").unwrap();
        container.anchor = Some(identity(&anchor));
        container.mounts = vec![bundle.join("rootfs"), shared.join("s1/rootfs")];
        let script = format!("cat >> {}; echo >> {}", log.display(), log.display());
        let hook = HookBuilder::default()
            .path("/bin/sh")
            .args(["sh".into(), "-c".into(), script]);
        container.poststop = vec![hook.build().unwrap()];
        left.write();

        for _ in 0..3 {
            left.clean("s1").unwrap();
        }
        assert!(!vmm.wait().unwrap().success());
        assert!(!anchor.wait().unwrap().success());
        assert!(!left.config.state_dir.join("ns").exists());
        assert_eq!(mounts_below(left.base.path()).unwrap(), Vec::<PathBuf>::new());
        let told = fs::read_to_string(log).unwrap();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(r#""status":"stopped""#), "{told}");
    });
}

fn open_lock_of(left: &Leftover) -> fs::File {
    let lock = directory::open_lock(&left.directory()).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    lock
}

#[test]
fn without_a_state_file_the_lock_tells_whom_to_kill() {
    in_private_mounts(|| {
        for text in [None, Some("{\"version\": 1, \"id"), Some("{\"version\": 99}")] {
            let left = Leftover::new();
            if let Some(text) = text {
                fs::write(left.directory().join("state.json"), text).unwrap();
            }
            let lock = open_lock_of(&left);
            let mut vmm = holder(&lock);
            drop(lock);
            tmpfs(&left.directory().join("shared"));
            left.clean("s1").unwrap();
            assert!(!vmm.wait().unwrap().success());
            assert!(!left.directory().exists());
        }
    });
}

/// The shim of a Create that is given up early is still preparing the sandbox when `delete` comes.
#[test]
fn what_a_dying_shim_still_made_goes_too() {
    in_private_mounts(|| {
        let mut left = Leftover::new();
        let lock = open_lock_of(&left);
        let mut vmm = holder(&lock);
        left.state.vmm = vec![identity(&vmm)];
        let late = left.state.containers.remove("c2").unwrap();
        left.write();

        let rootfs = left.bundle("c2").join("rootfs");
        std::thread::scope(|scope| {
            let clean = scope.spawn(|| left.clean("s1"));
            // Once this is dead, the state file has been read; the lock is still held.
            vmm.wait().unwrap();
            tmpfs(&rootfs);
            let mut state = left.state.clone();
            let mounts = vec![rootfs.clone()];
            state
                .containers
                .insert("c2".into(), ContainerState { mounts, ..late });
            state.write(&left.directory()).unwrap();
            drop(lock);
            clean.join().unwrap().unwrap();
        });
        assert_eq!(mounts_below(left.base.path()).unwrap(), Vec::<PathBuf>::new());
        assert!(!left.directory().exists());
    });
}

#[test]
fn a_member_of_a_living_sandbox_takes_only_itself_away() {
    in_private_mounts(|| {
        let mut left = Leftover::new();
        let lock = open_lock_of(&left);
        let (mut shim, mut vmm) = (holder(&lock), holder(&lock));
        left.state.shim = Some(identity(&shim));
        left.state.vmm = vec![identity(&vmm)];
        let shared = left.directory().join("shared");
        tmpfs(&shared);
        for id in ["s1", "c2"] {
            tmpfs(&shared.join(id).join("rootfs"));
        }
        let c2 = left.state.containers.get_mut("c2").unwrap();
        c2.mounts = vec![shared.join("c2/rootfs")];
        left.write();

        left.clean("c2").unwrap();
        assert_eq!(
            mounts_below(&shared).unwrap(),
            [shared.clone(), shared.join("s1/rootfs")]
        );
        assert!(vmm.try_wait().unwrap().is_none());

        shim.kill().unwrap();
        shim.wait().unwrap();
        drop(lock);
        left.clean("s1").unwrap();
        assert!(!vmm.wait().unwrap().success());
        assert!(!left.directory().exists());
    });
}

#[test]
fn a_shim_whose_only_container_is_given_up_is_ended() {
    in_private_mounts(|| {
        let mut left = Leftover::new();
        left.state.containers.remove("c2");
        let lock = open_lock_of(&left);
        let (mut shim, mut vmm) = (holder(&lock), holder(&lock));
        drop(lock);
        left.state.shim = Some(identity(&shim));
        left.state.vmm = vec![identity(&vmm)];
        left.state.phase = Phase::Draining;
        left.write();
        left.clean("s1").unwrap();
        assert!(shim.try_wait().unwrap().is_none(), "it is on its way");

        left.state.phase = Phase::Ready;
        left.write();
        left.clean("s1").unwrap();
        assert!(!shim.wait().unwrap().success());
        assert!(!vmm.wait().unwrap().success());
        assert!(!left.directory().exists());
    });
}

/// What has come to a volume that follows the host goes with the container; the host keeps its own.
#[test]
fn a_volume_that_follows_the_host_goes_with_what_the_host_has_mounted_since() {
    in_private_mounts(|| {
        let none = None::<&str>;
        let mut left = Leftover::new();
        let host = left.base.path().join("host");
        tmpfs(&host);
        mount_fs(none, &host, none, MsFlags::MS_SHARED, none).unwrap();
        fs::create_dir_all(host.join("volume")).unwrap();
        let place = left.directory().join("shared/c2/mounts/0");
        fs::create_dir_all(&place).unwrap();
        mount_fs(Some(&host.join("volume")), &place, none, MsFlags::MS_BIND, none).unwrap();
        mount_fs(none, &place, none, MsFlags::MS_SLAVE, none).unwrap();
        // One below, and then one on top of it all.
        tmpfs(&host.join("volume/sub"));
        tmpfs(&host.join("volume"));
        fs::write(host.join("volume/file"), "").unwrap();
        assert!(place.join("file").exists());

        left.state.containers.get_mut("c2").unwrap().mounts = vec![place.clone()];
        left.write();
        left.clean("c2").unwrap();
        assert_eq!(mounts_below(&left.directory()).unwrap(), Vec::<PathBuf>::new());
        assert!(host.join("volume/file").exists());
        left.clean("s1").unwrap();
        mount::detach(&host).unwrap();
    });
}

#[test]
fn members_of_a_dead_sandbox_go_one_by_one() {
    in_private_mounts(|| {
        let left = Leftover::new();
        left.write();
        left.clean("c2").unwrap();
        let rest = SandboxState::read(&left.directory()).unwrap().unwrap();
        assert_eq!(rest.containers.keys().collect::<Vec<_>>(), ["s1"]);
        left.clean("s1").unwrap();
        assert!(!left.directory().exists());
    });
}

#[test]
fn a_reused_number_or_another_boots_is_not_killed() {
    in_private_mounts(|| {
        let mut bystander = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        let mut left = Leftover::new();
        let who = identity(&bystander);
        left.state.vmm = vec![ProcessIdentity {
            start_time: who.start_time + 1,
            ..who
        }];
        left.write();
        left.clean("c2").unwrap();
        left.state.vmm = vec![who];
        left.state.boot_id = "another".into();
        left.write();
        left.clean("s1").unwrap();
        assert!(bystander.try_wait().unwrap().is_none());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
    });
}

/// CVE-2020-2024: neither links nor a forged state file lead the unmounting elsewhere.
#[test]
fn nothing_else_is_unmounted_or_removed() {
    in_private_mounts(|| {
        let mut left = Leftover::new();
        let precious = left.base.path().join("precious");
        tmpfs(&precious);
        fs::write(precious.join("file"), "").unwrap();
        let cgroup_like = left.base.path().join("not-a-cgroup");
        fs::create_dir(&cgroup_like).unwrap();
        std::os::unix::fs::symlink(&precious, left.directory().join("link")).unwrap();
        let link = left.directory().join("link");
        left.state.mounts = vec![precious.clone()];
        left.state.cgroups = vec![cgroup_like.clone()];
        let container = left.state.containers.get_mut("s1").unwrap();
        container.mounts = vec![precious.clone(), link];
        container.cgroups = vec![cgroup_like.clone()];
        left.write();
        left.clean("s1").unwrap();
        assert!(precious.join("file").exists() && cgroup_like.exists());
        assert!(!left.directory().exists());
        mount::detach(&precious).unwrap();
    });
}

#[test]
fn a_sandbox_that_never_was_is_clean() {
    let base = tempfile::tempdir().unwrap();
    let config = Config {
        state_dir: base.path().join("state"),
        ..Config::default()
    };
    container(&config, "ns", "s1", "s1", base.path()).unwrap();
    assert!(!config.state_dir.exists());
}

#[test]
fn leftovers_are_cleared_under_the_lock() {
    in_private_mounts(|| {
        let left = Leftover::new();
        left.write();
        let _lock = open_lock_of(&left);
        tmpfs(&left.directory().join("shared"));
        tmpfs(&left.directory().join("shared/c2/rootfs"));
        leftovers(&left.directory()).unwrap();
        let names: Vec<_> = fs::read_dir(left.directory())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, [directory::LOCK]);
        leftovers(&left.directory()).unwrap();
    });
}
