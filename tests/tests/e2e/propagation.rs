//! Mounts that are made and taken away while a container runs.

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::task::Task;
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;
use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};

pub const CASES: &[Case] = &[
    case(
        "slave_sees_what_is_mounted_later",
        slave_sees_what_is_mounted_later,
    )
    .core(),
    case("private_does_not", private_does_not),
    case("delete_leaves_the_hosts_mounts", delete_leaves_the_hosts_mounts),
    case("containers_mounts_stay_inside", containers_mounts_stay_inside),
    case("shared_is_refused", shared_is_refused).vm_only(),
];

/// A directory of the host whose mounts propagate, with a place to mount on in it.
struct Source(PathBuf);

impl Source {
    fn new(daemon: &Daemon) -> Self {
        let dir = daemon.path(&daemon.new_id("propagating"));
        fs::create_dir(&dir).unwrap();
        tmpfs(&dir);
        mount(None::<&str>, &dir, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        fs::create_dir_all(dir.join("volume/sub")).unwrap();
        Self(dir)
    }

    fn volume(&self) -> PathBuf {
        self.0.join("volume")
    }

    fn sub(&self) -> PathBuf {
        self.volume().join("sub")
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // A test that failed may have left mounts inside, which go along.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(&self.0).unwrap();
    }
}

fn tmpfs(point: &Path) {
    mount(
        Some("tmpfs"),
        point,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
}

fn container<'d>(daemon: &'d Daemon, source: &Source, options: &str) -> Task<'d> {
    Container::new(daemon)
        .bind(&source.volume(), "/data", options)
        .args(["sleep", "1000"])
        .start()
}

fn end(task: &Task<'_>) {
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
}

fn slave_sees_what_is_mounted_later(daemon: &Daemon) {
    let source = Source::new(daemon);
    let task = container(daemon, &source, "rbind:ro:rslave");
    task.sh("ls -A /data/sub").expect_exit(0).expect_stdout("");
    tmpfs(&source.sub());
    fs::write(source.sub().join("file"), "later\n").unwrap();
    deadline::poll("the host's mount in the container", ORDINARY, || {
        (task.sh("cat /data/sub/file").text() == "later\n").then_some(())
    });
    // The container does not hold on to what it no longer uses.
    deadline::poll("the host's unmounting", ORDINARY, || umount(&source.sub()).ok());
    deadline::poll("its absence in the container", ORDINARY, || {
        task.sh("ls -A /data/sub").text().is_empty().then_some(())
    });
    end(&task);
}

fn private_does_not(daemon: &Daemon) {
    let source = Source::new(daemon);
    let task = container(daemon, &source, "rbind:rw:rprivate");
    tmpfs(&source.sub());
    fs::write(source.sub().join("file"), "later\n").unwrap();
    task.sh("ls -A /data/sub").expect_exit(0).expect_stdout("");
    umount(&source.sub()).unwrap();
    end(&task);
}

fn delete_leaves_the_hosts_mounts(daemon: &Daemon) {
    let source = Source::new(daemon);
    tmpfs(&source.sub());
    let task = container(daemon, &source, "rbind:rw:rslave");
    task.sh("echo one > /data/sub/one").expect_exit(0);
    let deeper = source.sub().join("deeper");
    fs::create_dir(&deeper).unwrap();
    tmpfs(&deeper);
    deadline::poll("the inner mount in the container", ORDINARY, || {
        task.sh("echo two > /data/sub/deeper/two");
        deeper.join("two").exists().then_some(())
    });
    end(&task);
    assert_eq!(fs::read_to_string(source.sub().join("one")).unwrap(), "one\n");
    // Nothing of the container's holds them.
    umount(&deeper).unwrap();
    umount(&source.sub()).unwrap();
}

fn containers_mounts_stay_inside(daemon: &Daemon) {
    let source = Source::new(daemon);
    let script = "mount -t tmpfs t /data/sub && echo x > /data/sub/file && cat /data/sub/file";
    Container::new(daemon)
        .flag("--privileged")
        .bind(&source.volume(), "/data", "rbind:rw:rslave")
        .sh(script)
        .run()
        .expect_exit(0)
        .expect_stdout("x\n");
    assert_eq!(fs::read_dir(source.sub()).unwrap().count(), 0);
}

fn shared_is_refused(daemon: &Daemon) {
    let source = Source::new(daemon);
    for (options, reason) in [
        ("rbind:rw:rshared", "cannot appear on the host"),
        ("rbind:rro:rslave", "which no rro reaches"),
    ] {
        let container = Container::new(daemon)
            .bind(&source.volume(), "/data", options)
            .args(["true"]);
        let status = container.try_create().err().expect("Create fails");
        assert!(status.message().contains(reason), "{status}");
    }
}
