//! Real mounts, each test in its own mount namespace.

use std::fs;
use std::process::Command;

use super::*;
use crate::mount::mounts_below;
use crate::testing::in_private_mounts;

fn mount_of(fstype: &str, source: &str, options: &[&str]) -> RootfsMount {
    RootfsMount {
        fstype: fstype.into(),
        source: source.into(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..RootfsMount::default()
    }
}

fn mounted(mounts: &[RootfsMount], check: impl FnOnce(&Path)) {
    let bundle = tempfile::tempdir().unwrap();
    let root = bundle.path().join("rootfs");
    fs::create_dir(&root).unwrap();
    let mut undo = Undo::new();
    mount_all(mounts, &root, &mut undo).unwrap();
    check(&root);
    undo.run().unwrap();
    assert_eq!(mounts_below(&root).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_read_only_bind_is_read_only() {
    in_private_mounts(|| {
        let layer = tempfile::tempdir().unwrap();
        fs::write(layer.path().join("file"), "x").unwrap();
        let source = layer.path().to_str().unwrap();
        mounted(&[mount_of("bind", source, &["rbind", "ro"])], |root| {
            assert_eq!(fs::read(root.join("file")).unwrap(), b"x");
            assert!(fs::write(root.join("file"), "y").is_err());
        });
        mounted(&[mount_of("bind", source, &["rbind", "rw"])], |root| {
            fs::write(root.join("file"), "y").unwrap();
        });
        assert_eq!(fs::read(layer.path().join("file")).unwrap(), b"y");
    });
}

#[test]
fn an_overlay_of_more_layers_than_a_page_holds() {
    in_private_mounts(|| {
        let work = tempfile::tempdir_in("/dev/shm").unwrap();
        let long = work
            .path()
            .join("a-rather-long-name-as-snapshotters-have-them/snapshots");
        let layers: Vec<_> = (0..90)
            .map(|n| {
                let layer = long.join(n.to_string()).join("fs");
                fs::create_dir_all(&layer).unwrap();
                fs::write(layer.join(format!("from-{n}")), "").unwrap();
                layer.display().to_string()
            })
            .collect();
        for dir in ["upper", "work"] {
            fs::create_dir(work.path().join(dir)).unwrap();
        }
        let options = [
            format!("workdir={}", work.path().join("work").display()),
            format!("upperdir={}", work.path().join("upper").display()),
            format!("lowerdir={}", layers.join(":")),
        ];
        assert!(options.join(",").len() > overlay::MAX_DATA);
        let before = std::env::current_dir().unwrap();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        mounted(&[mount_of("overlay", "overlay", &options)], |root| {
            assert_eq!(fs::read_dir(root).unwrap().count(), 90);
            fs::write(root.join("new"), "").unwrap();
        });
        assert_eq!(std::env::current_dir().unwrap(), before);
        assert!(work.path().join("upper/new").exists());
    });
}

#[test]
fn an_image_file_is_mounted_and_its_loop_device_let_go() {
    in_private_mounts(|| {
        let work = tempfile::tempdir().unwrap();
        let image = work.path().join("image.ext4");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let made = Command::new("/sbin/mkfs.ext4")
            .arg("-q")
            .arg(&image)
            .status()
            .unwrap();
        assert!(made.success());
        let source = image.to_str().unwrap();
        mounted(&[mount_of("ext4", source, &["loop"])], |root| {
            fs::write(root.join("file"), "x").unwrap();
        });
        mounted(&[mount_of("ext4", source, &["loop", "ro"])], |root| {
            assert_eq!(fs::read(root.join("file")).unwrap(), b"x");
            assert!(fs::write(root.join("file"), "y").is_err());
        });
        for entry in fs::read_dir("/sys/block").unwrap() {
            let backing = entry.unwrap().path().join("loop/backing_file");
            let file = fs::read_to_string(backing).unwrap_or_default();
            assert_ne!(Path::new(file.trim_end()), image);
        }
    });
}

#[test]
fn a_nested_target_cannot_leave_the_root() {
    in_private_mounts(|| {
        let layer = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(layer.path().join("inside")).unwrap();
        std::os::unix::fs::symlink(outside.path(), layer.path().join("link")).unwrap();
        let root = mount_of("bind", layer.path().to_str().unwrap(), &["rbind"]);
        let nested = |target: &str| RootfsMount {
            target: target.into(),
            ..mount_of("tmpfs", "tmpfs", &[])
        };
        mounted(&[root.clone(), nested("inside")], |path| {
            fs::write(path.join("inside/file"), "").unwrap();
        });
        assert!(!layer.path().join("inside/file").exists());
        for target in ["link", "../../tmp"] {
            let bundle = tempfile::tempdir().unwrap();
            let mut undo = Undo::new();
            assert!(
                mount_all(&[root.clone(), nested(target)], bundle.path(), &mut undo).is_err(),
                "{target}"
            );
        }
        assert_eq!(mounts_below(outside.path()).unwrap(), Vec::<PathBuf>::new());
    });
}

#[test]
fn orders_to_the_mount_manager_are_refused() {
    let mut undo = Undo::new();
    let mounts = [mount_of("format/mkdir/overlay", "overlay", &[])];
    let error = mount_all(&mounts, Path::new("/nowhere"), &mut undo).unwrap_err();
    assert!(matches!(error, RootfsError::Unsupported(_)), "{error}");
}

/// CVE-2021-30465: an image's directory becomes a link between the look and the mount.
#[test]
fn a_target_that_is_swapped_for_a_link_is_never_left_by() {
    const ROUNDS: usize = 300;
    in_private_mounts(|| {
        let (layer, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (inside, link) = (layer.path().join("inside"), layer.path().join("link"));
        fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(outside.path(), &link).unwrap();
        let root = mount_of("bind", layer.path().to_str().unwrap(), &["rbind"]);
        let nested = RootfsMount {
            target: "inside".into(),
            ..mount_of("tmpfs", "tmpfs", &[])
        };
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let at = rustix::fs::CWD;
                // A test that fails does not say that it is done.
                let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
                while !done.load(std::sync::atomic::Ordering::Relaxed) && std::time::Instant::now() < until {
                    // Fails while something is mounted there.
                    rustix::fs::renameat_with(at, &inside, at, &link, exchange).ok();
                }
            });
            let (mut mounted, mut refused) = (0, 0);
            for round in 0.. {
                if round >= ROUNDS && mounted > 0 && refused > 0 {
                    break;
                }
                assert!(
                    round < 100 * ROUNDS,
                    "{mounted} mounted, {refused} refused: no race"
                );
                let bundle = tempfile::tempdir().unwrap();
                let mut undo = Undo::new();
                match mount_all(&[root.clone(), nested.clone()], bundle.path(), &mut undo) {
                    Ok(()) => mounted += 1,
                    Err(_) => refused += 1,
                }
                assert_eq!(mounts_below(outside.path()).unwrap(), Vec::<PathBuf>::new());
                undo.run().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            swapper.join().unwrap();
        });
    });
}

/// As containerd's erofs snapshotter orders it without `default_size`: the writable layer is a directory.
#[test]
fn layers_under_a_directory_of_the_host() {
    in_private_mounts(|| {
        let work = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| work.path().join(name);
        for directory in ["one", "two", "upper"] {
            fs::create_dir(path(directory)).unwrap();
        }
        fs::write(path("one/file"), "one").unwrap();
        fs::write(path("two/file"), "two").unwrap();
        let root = path("root");
        fs::create_dir(&root).unwrap();
        let layer = |name| mount_of("bind", path(name).to_str().unwrap(), &["rbind", "ro"]);
        let options = [
            format!("X-containerd.mkdir.path={}:0711", path("work").display()),
            format!("workdir={}", path("work").display()),
            format!("upperdir={}", path("upper").display()),
            "lowerdir={{ overlay 0 1 }}".to_owned(),
        ];
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mounts = [
            layer("two"),
            layer("one"),
            mount_of("format/mkdir/overlay", "overlay", &options),
        ];
        let scratch = path("scratch/c");
        let mut undo = Undo::new();
        layers::mount_formatted(&mounts, &root, &scratch, &mut undo).unwrap();
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "two");
        fs::write(root.join("new"), "").unwrap();
        assert!(path("upper/new").exists());
        undo.run().unwrap();
        assert_eq!(mounts_below(work.path()).unwrap(), Vec::<PathBuf>::new());
        assert!(!scratch.exists());
    });
}

/// What lies in an image may have been written by a guest.
#[test]
fn a_place_in_an_image_cannot_lead_out_of_it() {
    in_private_mounts(|| {
        let work = tempfile::tempdir().unwrap();
        let (image, root) = (work.path().join("image"), work.path().join("root"));
        fs::create_dir(&image).unwrap();
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/etc", image.join("upper")).unwrap();
        let mounts = [
            mount_of("bind", image.to_str().unwrap(), &["rbind"]),
            mount_of("format/bind", "{{ mount 0 }}/upper", &["rbind"]),
        ];
        let mut undo = Undo::new();
        let error = layers::mount_formatted(&mounts, &root, &work.path().join("scratch"), &mut undo);
        assert!(
            matches!(error, Err(RootfsError::Invalid { index: 1, .. })),
            "{error:?}"
        );
        undo.run().unwrap();
        assert_eq!(mounts_below(work.path()).unwrap(), Vec::<PathBuf>::new());
    });
}
