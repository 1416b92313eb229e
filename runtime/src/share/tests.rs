//! Real mounts, each test in its own mount namespace.

use std::fs;
use std::os::unix::fs::symlink;

use nix::mount::MsFlags;

use super::*;
use crate::mount::mounts_below;
use crate::testing::in_private_mounts;

fn with_share(test: impl FnOnce(&Path, &SharedTree, &mut Undo) + Send) {
    in_private_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut undo = Undo::new();
        let share = SharedTree::create(dir.path(), &mut undo).unwrap();
        test(dir.path(), &share, &mut undo);
        drop(share);
        undo.run().unwrap();
        assert_eq!(mounts_below(dir.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}

fn bind(index: usize, source: &Path) -> BindMount {
    BindMount {
        index,
        source: source.into(),
        read_only: false,
        recursive: true,
        recursive_read_only: false,
        follows_host: false,
        destination: "/data".into(),
    }
}

fn seen(dir: &Path, index: usize) -> PathBuf {
    dir.join("shared/c1/mounts").join(index.to_string())
}

#[test]
fn rootfs_and_binds_show_up_and_go_away() {
    with_share(|dir, share, undo| {
        let (rootfs, volume) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(rootfs.path().join("etc"), "").unwrap();
        let container = share.container("c1", undo).unwrap();
        container.add_rootfs(rootfs.path(), true, undo).unwrap();
        container.add_bind(&bind(0, volume.path()), undo).unwrap();
        assert!(dir.join("shared/c1/rootfs/etc").exists());
        assert!(fs::write(dir.join("shared/c1/rootfs/new"), "").is_err());
        fs::write(seen(dir, 0).join("new"), "").unwrap();
        assert!(volume.path().join("new").exists());
    });
}

#[test]
fn what_is_mounted_later_shows_where_the_host_is_followed_and_nothing_goes_back() {
    with_share(|dir, share, undo| {
        let none = None::<&str>;
        let mount_at = |point: &Path| {
            nix::mount::mount(Some("t"), point, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        };
        let host = tempfile::tempdir().unwrap();
        mount_at(host.path());
        nix::mount::mount(none, host.path(), none, MsFlags::MS_SHARED, none).unwrap();
        let volume = host.path().join("volume");
        let (sub, back) = (volume.join("sub"), volume.join("back"));
        for directory in [&sub, &back] {
            fs::create_dir_all(directory).unwrap();
        }
        let container = share.container("c1", undo).unwrap();
        let following = BindMount {
            follows_host: true,
            read_only: true,
            ..bind(0, &volume)
        };
        container.add_bind(&following, undo).unwrap();
        container.add_bind(&bind(1, &volume), undo).unwrap();

        mount_at(&sub);
        fs::write(sub.join("file"), "later").unwrap();
        assert_eq!(fs::read(seen(dir, 0).join("sub/file")).unwrap(), b"later");
        assert!(!seen(dir, 1).join("sub/file").exists());
        assert!(fs::write(seen(dir, 0).join("new"), "").is_err());
        nix::mount::umount(&sub).unwrap();
        assert!(!seen(dir, 0).join("sub/file").exists());

        mount_at(&seen(dir, 0).join("back"));
        fs::write(seen(dir, 0).join("back/file"), "").unwrap();
        assert!(!back.join("file").exists());

        // Whatever is there at the end goes from the share, and from nowhere else.
        mount_at(&sub);
        mount_at(&volume);
        fs::write(volume.join("kept"), "").unwrap();
        std::mem::replace(undo, Undo::new()).run().unwrap();
        assert!(volume.join("kept").exists());
        nix::mount::umount2(host.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_single_file_is_live_in_both_directions() {
    with_share(|dir, share, undo| {
        let volume = tempfile::tempdir().unwrap();
        let file = volume.path().join("hosts");
        fs::write(&file, "one").unwrap();
        let container = share.container("c1", undo).unwrap();
        container.add_bind(&bind(0, &file), undo).unwrap();
        let read_only = BindMount {
            read_only: true,
            ..bind(1, &file)
        };
        container.add_bind(&read_only, undo).unwrap();

        fs::write(&file, "two").unwrap();
        assert_eq!(fs::read(seen(dir, 0)).unwrap(), b"two");
        assert_eq!(fs::read(seen(dir, 1)).unwrap(), b"two");
        fs::write(seen(dir, 0), "three").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"three");
        assert!(fs::write(seen(dir, 1), "four").is_err());
    });
}

#[test]
fn read_only_is_of_the_top_and_recursive_read_only_of_all() {
    with_share(|dir, share, undo| {
        let volume = tempfile::tempdir().unwrap();
        let sub = volume.path().join("sub");
        fs::create_dir(&sub).unwrap();
        nix::mount::mount(
            Some("t"),
            &sub,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let container = share.container("c1", undo).unwrap();
        let ro = BindMount {
            read_only: true,
            ..bind(0, volume.path())
        };
        let rro = BindMount {
            recursive_read_only: true,
            ..bind(1, volume.path())
        };
        let flat = BindMount {
            recursive: false,
            ..bind(2, volume.path())
        };
        for bind in [&ro, &rro, &flat] {
            container.add_bind(bind, undo).unwrap();
        }
        assert!(fs::write(seen(dir, 0).join("x"), "").is_err());
        fs::write(seen(dir, 0).join("sub/x"), "").unwrap();
        assert!(seen(dir, 1).join("sub/x").exists());
        assert!(fs::write(seen(dir, 1).join("sub/y"), "").is_err());
        assert!(!seen(dir, 2).join("sub/x").exists());
        mount::detach(&sub).unwrap();
    });
}

#[test]
fn a_missing_source_is_named_and_leaves_nothing() {
    with_share(|_, share, undo| {
        let container = share.container("c1", undo).unwrap();
        let error = container
            .add_bind(&bind(0, Path::new("/no/such")), undo)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot open /no/such: No such file or directory (os error 2)"
        );
    });
}

#[test]
fn an_id_is_taken_once() {
    with_share(|_, share, undo| {
        let _first = share.container("c1", undo).unwrap();
        let mut second = Undo::new();
        assert!(matches!(
            share.container("c1", &mut second),
            Err(MountError::Create { .. })
        ));
        second.run().unwrap();
        assert!(share.path().join("c1/mounts").exists());
    });
}

/// CVE-2020-2026: a link planted in the share must not move the host's next mount elsewhere.
#[test]
fn the_guest_cannot_write_where_the_host_mounts() {
    with_share(|dir, share, undo| {
        let container = share.container("c1", undo).unwrap();
        // What the guest can do, it does by way of the exported directory.
        let exported = dir.join("shared");
        assert!(symlink("/etc", exported.join("c2")).is_err());
        assert!(symlink("/etc", exported.join("c1/mounts/0")).is_err());
        assert!(fs::rename(exported.join("c1/mounts"), exported.join("c1/gone")).is_err());
        assert!(fs::remove_dir(exported.join("c1/mounts")).is_err());
        let volume = tempfile::tempdir().unwrap();
        container.add_bind(&bind(0, volume.path()), undo).unwrap();
        // And were there a link all the same, it would not be followed.
        symlink("/etc", dir.join("tree/c1/mounts/1")).unwrap();
        assert!(container.add_bind(&bind(1, volume.path()), undo).is_err());
        fs::remove_file(dir.join("tree/c1/mounts/1")).unwrap();
    });
}

/// CVE-2020-2024: what a guest leaves in its volumes must not lead the host's unmounting elsewhere.
#[test]
fn unmounting_follows_no_link() {
    with_share(|dir, share, undo| {
        let volume = tempfile::tempdir().unwrap();
        let precious = tempfile::tempdir().unwrap();
        let tmpfs = Some("tmpfs");
        nix::mount::mount(
            Some("t"),
            precious.path(),
            tmpfs,
            nix::mount::MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let container = share.container("c1", undo).unwrap();
        container.add_bind(&bind(0, volume.path()), undo).unwrap();
        symlink(precious.path(), seen(dir, 0).join("link")).unwrap();
        mount::detach(&seen(dir, 0).join("link")).unwrap();
        assert_eq!(mounts_below(precious.path()).unwrap().len(), 1);
        mount::detach(precious.path()).unwrap();
    });
}

#[test]
fn copies_of_the_share_see_later_mounts() {
    with_share(|dir, share, undo| {
        // As the file-sharing server's mount namespace does.
        let copy = dir.join("copy");
        fs::create_dir(&copy).unwrap();
        let flags = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(Some(share.path()), &copy, None::<&str>, flags, None::<&str>).unwrap();
        let volume = tempfile::tempdir().unwrap();
        fs::write(volume.path().join("x"), "").unwrap();
        let container = share.container("c1", undo).unwrap();
        container.add_bind(&bind(0, volume.path()), undo).unwrap();
        assert!(copy.join("c1/mounts/0/x").exists());
        mount::detach(&copy).unwrap();
        fs::remove_dir(&copy).unwrap();
    });
}
