//! Mount options as containerd writes them, sorted into what the kernel wants where.

use nix::mount::MsFlags;

use super::RootfsError;

/// A mount's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// For mount(2).
    pub flags: MsFlags,
    /// For the file system.
    pub data: Vec<String>,
    /// The source is a file to be attached to a loop device.
    pub on_loop: bool,
}

/// Sets the flag, or clears it.
enum Change {
    Set(MsFlags),
    Clear(MsFlags),
}

impl MountOptions {
    /// Sorts `options`; a later one overrides an earlier one.
    ///
    /// # Errors
    /// An option stands for work that Bulkhead does not do.
    pub fn parse(options: &[String]) -> Result<Self, RootfsError> {
        let mut parsed = Self {
            flags: MsFlags::empty(),
            data: Vec::new(),
            on_loop: false,
        };
        for option in options {
            match flag(option) {
                Some(Change::Set(flag)) => parsed.flags.insert(flag),
                Some(Change::Clear(flag)) => parsed.flags.remove(flag),
                None if option == "loop" => parsed.on_loop = true,
                None if is_unsupported(option) => {
                    return Err(RootfsError::Unsupported(format!("mount option {option}")));
                }
                // Comments, by mount(8)'s definition.
                None if option.starts_with("x-") => {}
                None => parsed.data.push(option.clone()),
            }
        }
        Ok(parsed)
    }

    /// Whether the mount may not be written.
    pub fn read_only(&self) -> bool {
        self.flags.contains(MsFlags::MS_RDONLY)
    }

    /// The flags that hold for one mount of a file system, as `mount_setattr(2)` names them.
    pub fn attributes(&self) -> u64 {
        [
            (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
            (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
            (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
            (MsFlags::MS_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        ]
        .into_iter()
        .filter(|(flag, _)| self.flags.contains(*flag))
        .fold(0, |attributes, (_, attribute)| attributes | attribute)
    }
}

/// Ids mapped by the mount, and containerd's own orders to whoever mounts.
fn is_unsupported(option: &str) -> bool {
    option.starts_with("X-containerd.") || option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

fn flag(option: &str) -> Option<Change> {
    use Change::{Clear, Set};
    Some(match option {
        "defaults" => Set(MsFlags::empty()),
        "ro" => Set(MsFlags::MS_RDONLY),
        "rw" => Clear(MsFlags::MS_RDONLY),
        "nosuid" => Set(MsFlags::MS_NOSUID),
        "suid" => Clear(MsFlags::MS_NOSUID),
        "nodev" => Set(MsFlags::MS_NODEV),
        "dev" => Clear(MsFlags::MS_NODEV),
        "noexec" => Set(MsFlags::MS_NOEXEC),
        "exec" => Clear(MsFlags::MS_NOEXEC),
        "noatime" => Set(MsFlags::MS_NOATIME),
        "atime" => Clear(MsFlags::MS_NOATIME),
        "nodiratime" => Set(MsFlags::MS_NODIRATIME),
        "diratime" => Clear(MsFlags::MS_NODIRATIME),
        "relatime" => Set(MsFlags::MS_RELATIME),
        "norelatime" => Clear(MsFlags::MS_RELATIME),
        "strictatime" => Set(MsFlags::MS_STRICTATIME),
        "nostrictatime" => Clear(MsFlags::MS_STRICTATIME),
        "sync" => Set(MsFlags::MS_SYNCHRONOUS),
        "async" => Clear(MsFlags::MS_SYNCHRONOUS),
        "dirsync" => Set(MsFlags::MS_DIRSYNC),
        "bind" => Set(MsFlags::MS_BIND),
        "rbind" => Set(MsFlags::MS_BIND.union(MsFlags::MS_REC)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<MountOptions, RootfsError> {
        MountOptions::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_go_where_the_kernel_wants_them() {
        let options = parse(&["ro", "nosuid", "loop", "index=off", "userxattr", "x-gvfs-hide"]).unwrap();
        assert_eq!(options.flags, MsFlags::MS_RDONLY | MsFlags::MS_NOSUID);
        assert_eq!(options.data, ["index=off", "userxattr"]);
        assert!(options.on_loop && options.read_only());
        assert_eq!(options.attributes(), libc::MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn the_last_of_two_contrary_options_counts() {
        assert!(!parse(&["ro", "rw"]).unwrap().read_only());
        assert!(parse(&["rw", "ro"]).unwrap().read_only());
    }

    #[test]
    fn work_that_is_not_done_is_refused_by_name() {
        for option in ["X-containerd.mkfs.size=1", "uidmap=0:1000:1"] {
            let error = parse(&[option]).unwrap_err().to_string();
            assert!(error.contains(option), "{error}");
        }
    }
}
