//! A loop device, detached with the test.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Loop(pub PathBuf);

impl Loop {
    /// `None`, with a word about it, where the host has none.
    pub fn of(image: &Path, read_only: bool) -> Option<Self> {
        let mut attach = Command::new("losetup");
        attach.args(["--find", "--show"]).arg(image);
        if read_only {
            attach.arg("--read-only");
        }
        let output = attach.output().unwrap();
        if !output.status.success() {
            return crate::rig::skip(String::from_utf8_lossy(&output.stderr).trim());
        }
        let device = String::from_utf8(output.stdout).unwrap();
        Some(Self(device.trim().into()))
    }

    /// Major and minor.
    pub fn number(&self) -> (u64, u64) {
        let number = std::fs::metadata(&self.0).unwrap().rdev();
        (nix::sys::stat::major(number), nix::sys::stat::minor(number))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        assert!(detached.unwrap().success() || std::thread::panicking());
    }
}
