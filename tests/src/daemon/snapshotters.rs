//! Snapshotters whose snapshots are file systems of their own, in a file each.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use super::Daemon;
use crate::command;
use crate::deadline;

/// Room for the image, and for what tests write.
const SNAPSHOT_BYTES: u64 = 32 << 20;

impl Daemon {
    /// What blockfile snapshots begin as: an empty ext4 image.
    #[track_caller]
    pub(super) fn make_scratch_image(&self) {
        let path = self.scratch_image();
        File::create(&path).unwrap().set_len(SNAPSHOT_BYTES).unwrap();
        command::succeed(Command::new("mkfs.ext4").arg("-q").arg(path), deadline::ORDINARY);
    }

    /// erofs with a writable layer that is an image too; with directories for that, the root would have to be put
    /// together on the host. Older daemons leave what they do not know alone.
    pub(super) fn snapshotters_config(&self) -> String {
        format!(
            r#"[plugins."io.containerd.snapshotter.v1.blockfile"]
scratch_file = "{}"
fs_type = "ext4"
[plugins."io.containerd.snapshotter.v1.erofs"]
default_size = "{SNAPSHOT_BYTES}"
"#,
            self.scratch_image().display()
        )
    }

    fn scratch_image(&self) -> PathBuf {
        self.path("scratch.ext4")
    }
}
