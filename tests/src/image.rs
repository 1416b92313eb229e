//! A directory with the image's files in it, for `--rootfs`.

use std::path::{Path, PathBuf};

use crate::command;
use crate::daemon::Daemon;
use crate::deadline;

impl Daemon {
    /// Unpacks the image into the new directory `name` under the daemon's own.
    #[track_caller]
    pub fn unpack_image(&self, name: &str) -> PathBuf {
        let view = self.path(&format!("{name}.view"));
        let dir = self.path(name);
        std::fs::create_dir_all(&view).unwrap();
        let mount = |args: &[&str], path: &Path, image: Option<&str>| {
            let mut ctr = self.ctr(args);
            command::succeed(ctr.args(image).arg(path), deadline::ORDINARY);
        };
        mount(&["images", "mount"], &view, Some(self.image()));
        let mut copy = std::process::Command::new("cp");
        command::succeed(copy.arg("-a").arg(&view).arg(&dir), deadline::ORDINARY);
        mount(&["images", "unmount", "--rm"], &view, None);
        std::fs::remove_dir(&view).unwrap();
        dir
    }
}
