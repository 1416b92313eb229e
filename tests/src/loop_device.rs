//! A loop device, as a block device of the host that a test can spare.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{command, deadline};

/// A loop device, detached when it is dropped.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    attached: bool,
}

impl Loop {
    /// On an image.
    #[track_caller]
    pub fn of(image: &Path) -> Loop {
        Loop::attach(&mut Command::new("losetup"), image)
    }

    /// On an image that nobody may write.
    #[track_caller]
    pub fn read_only(image: &Path) -> Loop {
        Loop::attach(Command::new("losetup").arg("--read-only"), image)
    }

    #[track_caller]
    fn attach(losetup: &mut Command, image: &Path) -> Loop {
        losetup.args(["--find", "--show"]).arg(image);
        let device = command::succeed(losetup, deadline::ORDINARY).text();
        Loop {
            path: device.trim().into(),
            attached: true,
        }
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its node, as text.
    pub fn name(&self) -> &str {
        self.path.to_str().expect("a name of the kernel's")
    }

    /// Major and minor.
    pub fn number(&self) -> (u64, u64) {
        let number = fs::metadata(&self.path).expect("the device's node").rdev();
        (nix::sys::stat::major(number), nix::sys::stat::minor(number))
    }

    /// Detaches it. Who still has it open is a leak: then the kernel keeps it.
    ///
    /// # Panics
    /// It stays.
    #[track_caller]
    pub fn detach(mut self) {
        self.attached = false;
        command::succeed(
            Command::new("losetup").arg("--detach").arg(&self.path),
            deadline::ORDINARY,
        );
        let name = self.path.file_name().expect("a name").to_owned();
        let backing = Path::new("/sys/block").join(name).join("loop");
        deadline::poll("nobody has the device open", deadline::ORDINARY, || {
            (!backing.exists()).then_some(())
        });
    }
}

impl Drop for Loop {
    /// For a test that has failed.
    fn drop(&mut self) {
        if !self.attached {
            return;
        }
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} stays", self.path.display());
        }
    }
}
