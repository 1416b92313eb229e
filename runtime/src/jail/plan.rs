//! The jail of QEMU and its parent.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::root::{self, Tree};
use super::user::User;
use super::{Executable, landlock, limits, privileges};

/// Everything that shapes it, as it travels to the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// QEMU.
    pub executable: Executable,
    /// What else QEMU opens by path: kernel, initramfs. What it gets by descriptor need not be here.
    pub files: Vec<PathBuf>,
    /// Whether it needs `/dev/kvm`.
    pub kvm: bool,
    /// The file that gives out user numbers, see [`User::take`].
    pub users: PathBuf,
}

impl Jail {
    /// Puts the calling process, which has a single thread, into it; what it starts then is in it, too, as the
    /// first process of a PID namespace, and can be `program` only. The user is this process's for as long as it
    /// lives.
    pub fn enter(&self, program: &Path) -> io::Result<User> {
        if let Some(directory) = self.users.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let user = User::take(&self.users)?;
        root::leave_namespaces()?;
        let files = [self.executable.files.as_slice(), &self.files].concat();
        let tree = Tree {
            files: &files,
            interpreter: self.executable.interpreter.as_deref(),
            kvm: self.kvm,
            user: user.number(),
        };
        tree.become_root()?;
        limits::of_a_monitor()?;
        privileges::become_user(user.number())?;
        let interpreter = self.executable.interpreter.as_deref();
        let rules = landlock::of_a_monitor(
            interpreter.into_iter().chain([program]),
            files.iter().map(PathBuf::as_path),
            self.kvm,
        );
        landlock::restrict(rules).map_err(io::Error::other)?;
        Ok(user)
    }
}
