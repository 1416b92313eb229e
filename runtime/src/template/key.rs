//! What a saved VM depends on.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::TemplateError;
use crate::config::Config;
use crate::fs_server;
use crate::process::boot_id;
use crate::vmm::{Accelerator, VmShape, Vmm};

/// Raised when this program would read or treat a saved VM otherwise than before.
const FORMAT: u32 = 1;
/// Of a digest's 32 bytes, how many make a name: enough that no two meet.
const NAME_BYTES: usize = 16;

/// Everything that shapes a saved VM. One that differs in anything cannot be restored in place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Of the file and of what is done after a restore.
    pub format: u32,
    /// Of Bulkhead.
    pub version: String,
    /// The host's boot: its kernel, its processor, its clock.
    pub boot_id: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// What executes the guest.
    pub accelerator: Accelerator,
    /// The guest's kernel.
    pub kernel: String,
    /// Its initramfs, which holds the agent.
    pub initramfs: String,
    /// The file-sharing server, whose state is saved with the VM.
    pub fs_server: String,
    /// Digest of the monitor's own identity.
    pub monitor: String,
}

/// One content of one file: another content, put there in whatever way, has another identity. Told by the inode,
/// since reading 30 MB before each start would take as long as a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileIdentity(String);

impl Key {
    /// The key of a VM of `shape` that would be saved now.
    ///
    /// # Errors
    /// The monitor cannot save, or something that the VM is made of is not there.
    pub async fn of(config: &Config, vmm: &dyn Vmm, shape: &VmShape) -> Result<Self, TemplateError> {
        let monitor = vmm
            .saved_identity(shape)
            .await?
            .ok_or(TemplateError::Unsupported)?;
        let identity = |path: &Path| {
            FileIdentity::of(path)
                .map(|identity| identity.to_string())
                .map_err(|source| TemplateError::File {
                    path: path.to_owned(),
                    source,
                })
        };
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: boot_id().map_err(|source| TemplateError::File {
                path: "/proc/sys/kernel/random/boot_id".into(),
                source,
            })?,
            vcpus: shape.vcpus,
            memory_mib: shape.memory_mib,
            accelerator: shape.accelerator,
            kernel: identity(&shape.kernel)?,
            initramfs: identity(&shape.initramfs)?,
            fs_server: identity(&config.helper(fs_server::PROGRAM))?,
            monitor: hex(&Sha256::digest(monitor.as_bytes())),
        })
    }

    /// Its name: the same for equal keys, another for others.
    pub fn name(&self) -> String {
        let mut digest = Sha256::new();
        // The order of the fields is that of the struct.
        match serde_json::to_vec(self) {
            Ok(text) => digest.update(text),
            // Strings and numbers can always be written.
            Err(error) => digest.update(error.to_string()),
        }
        hex(&digest.finalize()[..NAME_BYTES])
    }
}

impl FileIdentity {
    /// Of what is at `path` now.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        // The change time moves with each write and each rename, and nobody can set it.
        Ok(Self(format!(
            "{}:{}:{}:{}.{:09}",
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.ctime(),
            meta.ctime_nsec()
        )))
    }
}

impl fmt::Display for FileIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A key that differs from others in `class` alone.
    pub fn key(class: u32) -> Key {
        Key {
            format: FORMAT,
            version: "1".into(),
            boot_id: boot_id().unwrap(),
            vcpus: class,
            memory_mib: 256,
            accelerator: Accelerator::Tcg,
            kernel: "k".into(),
            initramfs: "i".into(),
            fs_server: "f".into(),
            monitor: "m".into(),
        }
    }

    #[test]
    fn names_differ_exactly_where_keys_do() {
        let one = key(1);
        assert_eq!(one.name(), key(1).name());
        assert_eq!(one.name().len(), 2 * NAME_BYTES);
        let others = [
            key(2),
            Key {
                boot_id: "another".into(),
                ..key(1)
            },
            Key {
                accelerator: Accelerator::Kvm,
                ..key(1)
            },
            Key {
                monitor: "another".into(),
                ..key(1)
            },
            Key {
                initramfs: "another".into(),
                ..key(1)
            },
        ];
        for other in others {
            assert_ne!(one.name(), other.name(), "{other:?}");
        }
    }

    #[test]
    fn a_file_with_another_content_is_another_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("file"), directory.path().join("other"));
        fs::write(&path, "one").unwrap();
        let identity = FileIdentity::of(&path).unwrap();
        assert_eq!(FileIdentity::of(&path).unwrap(), identity);
        // The same length, and put there in one step.
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(FileIdentity::of(&path).unwrap(), identity);
        assert!(FileIdentity::of(&other).is_err());
    }
}
