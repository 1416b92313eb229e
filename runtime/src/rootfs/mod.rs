//! The mounts containerd asks for at `<bundle>/rootfs`.

use std::path::PathBuf;

/// One of the mounts that make up a container's root file system (`containerd.types.Mount`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootfsMount {
    /// `overlay`, `bind`, `ext4`, `erofs`, ..
    pub fstype: String,
    /// Directory, block device, image file, or a word for file systems without a source.
    pub source: String,
    /// Relative to the root file system; empty is the root itself.
    pub target: PathBuf,
    /// As of mount(8).
    pub options: Vec<String>,
}
