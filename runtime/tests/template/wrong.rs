//! A template that is not as it should be is no reason not to start.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};

use bulkhead_runtime::sandbox::{ExitStatus, Origin};
use bulkhead_runtime::template::TemplateError;
use bulkhead_runtime::vmm::SAVED_OFFSET;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::rig::Rig;
use crate::{build, key, path, rig, rig_with_template, wait_for_template};

/// Launches, runs something, ends, and says how the VM began.
async fn life(rig: &Rig, id: &str) -> Origin {
    let mut running = rig.launch(id).await;
    let origin = running.sandbox.timings().origin;
    let (status, output) = running.run(rig.container(id, "exit 0", |_| {})).await;
    assert_eq!(status, ExitStatus::Code(0), "{output}");
    running.end().await;
    origin
}

#[tokio::test]
async fn what_is_torn_foreign_or_stale_is_not_loaded_and_soon_replaced() {
    let Some(rig) = rig_with_template().await else {
        return;
    };
    let path = path(&rig).await;
    let length = fs::metadata(&path).unwrap().len();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length / 2)
        .unwrap();
    assert_eq!(life(&rig, "torn").await, Origin::Booted);
    wait_for_template(&rig).await;
    assert_eq!(life(&rig, "whole").await, Origin::Restored);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    assert_eq!(life(&rig, "foreign").await, Origin::Booted);
    wait_for_template(&rig).await;

    // The same agent, but who would know.
    let initramfs = fs::read(&rig.config.initramfs).unwrap();
    fs::write(&rig.config.initramfs, initramfs).unwrap();
    assert_eq!(life(&rig, "stale").await, Origin::Booted);
    wait_for_template(&rig).await;
    assert_eq!(life(&rig, "fresh").await, Origin::Restored);
    rig.assert_clean();
}

#[tokio::test]
async fn a_vm_that_cannot_be_restored_is_booted_instead_and_its_template_goes() {
    // What makes QEMU refuse it, and what makes a guest that never wakes: its memory is gone.
    for (from, fill) in [(SAVED_OFFSET, 0xff), (SAVED_OFFSET + (1 << 20), 0)] {
        let Some(rig) = rig_with_template().await else {
            return;
        };
        let path = path(&rig).await;
        let file = File::options().write(true).open(&path).unwrap();
        let length = if fill == 0xff {
            4096
        } else {
            file.metadata().unwrap().len() - from
        };
        file.write_all_at(&vec![fill; length as usize], from).unwrap();
        assert_eq!(life(&rig, "s1").await, Origin::BootedInstead, "{fill}");
        assert!(!path.exists());
        // Nobody tries again for a while.
        assert_eq!(life(&rig, "s2").await, Origin::Booted);
        assert!(path.with_extension("failed").exists());
        build(&rig).await.unwrap();
        assert_eq!(life(&rig, "s3").await, Origin::Restored);
        rig.assert_clean();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_has_no_template_and_nothing_else() {
    let Some(rig) = rig() else { return };
    fs::create_dir_all(&rig.config.template_dir).unwrap();
    let small = Some("size=8m,mode=0700");
    mount(
        Some("small"),
        &rig.config.template_dir,
        Some("tmpfs"),
        MsFlags::empty(),
        small,
    )
    .unwrap();
    let error = build(&rig).await.unwrap_err();
    let names: Vec<_> = fs::read_dir(&rig.config.template_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let note = format!("{}.failed", key(&rig).await.name());
    let reason = fs::read_to_string(rig.config.template_dir.join(&note));
    umount2(&rig.config.template_dir, MntFlags::MNT_DETACH).unwrap();
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert_eq!(names, [note]);
    assert_eq!(reason.unwrap(), error.to_string());
    rig.assert_clean();
}

#[tokio::test]
async fn two_do_not_build_one_class_at_once() {
    let Some(rig) = rig() else { return };
    // What is found out about the host once, both know.
    key(&rig).await;
    let (one, other) = tokio::join!(build(&rig), build(&rig));
    let (made, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    made.unwrap();
    assert!(matches!(refused.unwrap_err(), TemplateError::Busy));
    // Which is no failure to remember.
    assert!(!path(&rig).await.with_extension("failed").exists());
    assert_eq!(life(&rig, "s1").await, Origin::Restored);
}
