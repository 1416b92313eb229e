//! Bind mounts: directories and single files, seen from both sides.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use bulkhead_tests::deadline::{self, ORDINARY};
use bulkhead_tests::{Case, Container, Daemon, case};
use nix::libc::SIGKILL;

pub const CASES: &[Case] = &[
    case("directory_both_ways", directory_both_ways),
    case("read_only_directory", read_only_directory).core(),
    case("single_file_both_ways", single_file_both_ways),
    case("read_only_file", read_only_file),
    case(
        "replaced_file_behind_a_directory",
        replaced_file_behind_a_directory,
    ),
    case("modes_and_owners", modes_and_owners),
    case("symlinks_stay_inside", symlinks_stay_inside),
    case("missing_source_fails_in_create", missing_source_fails_in_create),
    case("nested_mounts_of_a_recursive_bind", nested_mounts),
    case("destination_is_made", destination_is_made),
];

/// A new empty directory of the host.
fn directory(daemon: &Daemon) -> PathBuf {
    let dir = daemon.path(&daemon.new_id("volume"));
    fs::create_dir(&dir).unwrap();
    dir
}

fn directory_both_ways(daemon: &Daemon) {
    let dir = directory(daemon);
    fs::write(dir.join("from-host"), "one\n").unwrap();
    let task = Container::new(daemon)
        .bind(&dir, "/data", "rbind:rw")
        .args(["sleep", "1000"])
        .start();
    task.sh("cat /data/from-host; echo two > /data/from-guest; mkdir /data/sub")
        .expect_exit(0)
        .expect_stdout("one\n");
    assert_eq!(fs::read_to_string(dir.join("from-guest")).unwrap(), "two\n");
    assert!(dir.join("sub").is_dir());
    fs::write(dir.join("sub/later"), "three\n").unwrap();
    fs::write(dir.join("from-host"), "changed\n").unwrap();
    deadline::poll("the host's change in the container", ORDINARY, || {
        (task.sh("cat /data/sub/later /data/from-host").text() == "three\nchanged\n").then_some(())
    });
    fs::remove_file(dir.join("sub/later")).unwrap();
    deadline::poll("the removal in the container", ORDINARY, || {
        (task.sh("ls /data/sub").text().is_empty()).then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    fs::remove_dir_all(dir).unwrap();
}

fn read_only_directory(daemon: &Daemon) {
    let dir = directory(daemon);
    fs::write(dir.join("file"), "kept\n").unwrap();
    // Root in the container, with every capability, tries to make it writable.
    let script = "cat /data/file; mount -o remount,rw /data 2>/dev/null; mount -o remount,rw,bind /data 2>/dev/null; \
                  echo x > /data/file; echo x > /data/new; rm -f /data/file; chmod 777 /data/file; true";
    let container = Container::new(daemon).bind(&dir, "/data", "rbind:ro");
    let ran = container.sh(script).run();
    ran.expect_exit(0)
        .expect_stdout("kept\n")
        .expect_stderr_contains("Read-only file system");
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "kept\n");
    assert!(!dir.join("new").exists());
    fs::remove_dir_all(dir).unwrap();
}

fn single_file_both_ways(daemon: &Daemon) {
    let dir = directory(daemon);
    let file = dir.join("settings");
    fs::write(&file, "one\n").unwrap();
    fs::write(dir.join("secret"), "not shared\n").unwrap();
    let task = Container::new(daemon)
        .bind(&file, "/etc/settings", "rbind:rw")
        .args(["sleep", "1000"])
        .start();
    task.sh("cat /etc/settings; echo two >> /etc/settings")
        .expect_exit(0)
        .expect_stdout("one\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    fs::write(&file, "three\n").unwrap();
    deadline::poll("the host's change in the container", ORDINARY, || {
        (task.sh("cat /etc/settings").text() == "three\n").then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    assert_eq!(fs::read_to_string(dir.join("secret")).unwrap(), "not shared\n");
    fs::remove_dir_all(dir).unwrap();
}

fn read_only_file(daemon: &Daemon) {
    let dir = directory(daemon);
    let file = dir.join("settings");
    fs::write(&file, "kept\n").unwrap();
    let script = "cat /etc/settings; echo x >> /etc/settings || echo refused";
    let ran = Container::new(daemon)
        .bind(&file, "/etc/settings", "rbind:ro")
        .sh(script)
        .run();
    ran.expect_stdout("kept\nrefused\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept\n");
    fs::remove_dir_all(dir).unwrap();
}

/// As kubelet updates a ConfigMap: a new directory, and a symlink renamed over the old one.
fn replaced_file_behind_a_directory(daemon: &Daemon) {
    let dir = directory(daemon);
    let publish = |version: &str| {
        fs::create_dir(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("key"), version).unwrap();
        symlink(version, dir.join("..tmp")).unwrap();
        fs::rename(dir.join("..tmp"), dir.join("..data")).unwrap();
    };
    publish("v1");
    symlink("..data/key", dir.join("key")).unwrap();
    let task = Container::new(daemon)
        .bind(&dir, "/config", "rbind:ro")
        .args(["sleep", "1000"])
        .start();
    task.sh("cat /config/key").expect_exit(0).expect_stdout("v1");
    publish("v2");
    deadline::poll("the new version", ORDINARY, || {
        (task.sh("cat /config/key").text() == "v2").then_some(())
    });
    task.kill(SIGKILL);
    task.finish().expect_exit(137);
    fs::remove_dir_all(dir).unwrap();
}

fn modes_and_owners(daemon: &Daemon) {
    let dir = directory(daemon);
    fs::write(dir.join("private"), "x").unwrap();
    fs::set_permissions(dir.join("private"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(dir.join("private"), Some(1000), Some(2000)).unwrap();
    let script =
        "stat -c '%a %u %g' /data/private; touch /data/mine; chown 5:6 /data/mine; chmod 4751 /data/mine";
    Container::new(daemon)
        .bind(&dir, "/data", "rbind:rw")
        .sh(script)
        .run()
        .expect_exit(0)
        .expect_stdout("640 1000 2000\n");
    let metadata = fs::metadata(dir.join("mine")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(
        (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()),
        (0o4751, 5, 6)
    );
    fs::remove_dir_all(dir).unwrap();
}

fn symlinks_stay_inside(daemon: &Daemon) {
    let dir = directory(daemon);
    let host_file = daemon.path("host-only");
    fs::write(&host_file, "host only\n").unwrap();
    symlink(&host_file, dir.join("absolute")).unwrap();
    symlink("../host-only", dir.join("relative")).unwrap();
    let script = "cat /data/absolute; cat /data/relative; echo x > /data/relative; echo done";
    let ran = Container::new(daemon)
        .bind(&dir, "/data", "rbind:rw")
        .sh(script)
        .run();
    ran.expect_stdout("done\n");
    assert_eq!(fs::read_to_string(&host_file).unwrap(), "host only\n");
    fs::remove_file(host_file).unwrap();
    fs::remove_dir_all(dir).unwrap();
}

fn missing_source_fails_in_create(daemon: &Daemon) {
    let missing = daemon.path("no-such-source");
    let container = Container::new(daemon)
        .bind(&missing, "/data", "rbind:ro")
        .args(["true"]);
    let status = container.try_create().err().expect("Create fails");
    assert!(status.message().contains("no-such-source"), "{status}");
    assert!(!missing.exists());
}

fn nested_mounts(daemon: &Daemon) {
    let dir = directory(daemon);
    let inner = dir.join("inner");
    fs::create_dir(&inner).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), &inner, Some("tmpfs"), flags, None::<&str>).unwrap();
    fs::write(inner.join("file"), "nested\n").unwrap();
    let script = "cat /data/inner/file; echo x > /data/inner/new || echo refused";
    let ran = Container::new(daemon)
        .bind(&dir, "/data", "rbind")
        .sh(script)
        .run();
    let seen = fs::read_to_string(inner.join("new"));
    nix::mount::umount(&inner).unwrap();
    ran.expect_stdout("nested\n");
    assert_eq!(seen.unwrap(), "x\n");
    fs::remove_dir_all(dir).unwrap();
}

fn destination_is_made(daemon: &Daemon) {
    let dir = directory(daemon);
    fs::write(dir.join("file"), "here\n").unwrap();
    let script = "cat /a/b/c/file /x/y/file";
    let container = Container::new(daemon).bind(&dir, "/a/b/c", "rbind:ro").bind(
        &dir.join("file"),
        "/x/y/file",
        "rbind:ro",
    );
    container
        .sh(script)
        .run()
        .expect_exit(0)
        .expect_stdout("here\nhere\n");
    fs::remove_dir_all(dir).unwrap();
}
