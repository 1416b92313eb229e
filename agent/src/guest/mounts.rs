//! The guest's own file systems.
//!
//! The kernel unpacks the initramfs into rootfs, which cannot be the old root of `pivot_root`, and every
//! container needs that. So PID 1 moves to a tmpfs first, the way `switch_root` does (the mount becomes
//! `/` for everybody, not only for a chrooted process: whoever enters a mount namespace lands on its
//! topmost root).

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::boot::BootError;

/// Where the host's shared tree is.
pub const SHARE: &str = "/run/share";

/// Mount point of cgroup v2.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// What devices and data the guest's root may hold: the agent keeps a few kilobytes per container there.
const ROOT_OPTIONS: &str = "mode=0755,size=16m";

/// One mount, in order.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

const MOUNTS: [Mount; 8] = [
    Mount {
        kind: "proc",
        target: "/proc",
        flags: NO_PROGRAMS,
        options: "",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: NO_PROGRAMS,
        options: "",
    },
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: MsFlags::MS_NOSUID,
        options: "mode=0755",
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "gid=5,mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NO_PROGRAMS,
        options: "mode=1777",
    },
    Mount {
        kind: "mqueue",
        target: "/dev/mqueue",
        flags: NO_PROGRAMS,
        options: "",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV),
        options: "mode=0755",
    },
    Mount {
        kind: "cgroup2",
        target: CGROUPS,
        flags: NO_PROGRAMS,
        options: "nsdelegate",
    },
];

/// Moves to a root of our own and mounts everything but the share.
///
/// # Errors
/// Which mount, and why.
pub fn mount_all() -> Result<(), BootError> {
    let failed = |target: &str| {
        let target = target.to_owned();
        move |errno: Errno| BootError::Mount {
            target,
            source: errno,
        }
    };
    make_directory("/new").map_err(|source| BootError::File {
        path: "/new".into(),
        source,
    })?;
    mount(
        Some("root"),
        "/new",
        Some("tmpfs"),
        MsFlags::empty(),
        Some(ROOT_OPTIONS),
    )
    .map_err(failed("/"))?;
    nix::unistd::chdir("/new").map_err(failed("/new"))?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(failed("/"))?;
    nix::unistd::chroot(".").map_err(failed("."))?;
    nix::unistd::chdir("/").map_err(failed("/"))?;
    for Mount {
        kind,
        target,
        flags,
        options,
    } in &MOUNTS
    {
        make_directory(target).map_err(|source| BootError::File {
            path: target.into(),
            source,
        })?;
        mount(Some(*kind), *target, Some(*kind), *flags, Some(*options)).map_err(failed(target))?;
        if *target == "/sys" {
            // Kernel work that waits for a grace period (moving processes between cgroups, unmounting)
            // would otherwise wait for a timer tick or two, 10 ms each.
            let path = "/sys/kernel/rcu_expedited";
            std::fs::write(path, "1").map_err(|source| BootError::File {
                path: path.into(),
                source,
            })?;
        }
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).map_err(|source| BootError::File {
            path: link.into(),
            source,
        })?;
    }
    Ok(())
}

/// Mounts the shared tree, if the VM has one.
///
/// # Errors
/// Any but that there is no such device, which a test's VM may lack.
pub fn mount_share() -> Result<(), BootError> {
    make_directory(SHARE).map_err(|source| BootError::File {
        path: SHARE.into(),
        source,
    })?;
    match mount(
        Some("share"),
        SHARE,
        Some("virtiofs"),
        MsFlags::MS_NODEV,
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::EINVAL) => Ok(()),
        Err(source) => Err(BootError::Mount {
            target: SHARE.into(),
            source,
        }),
    }
}

fn make_directory(path: impl AsRef<Path>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Gives PID 1 standard streams if the kernel found no console for it: descriptors 0 to 2 must not become
/// something else.
///
/// # Errors
/// If /dev/null cannot be opened.
pub fn ensure_standard_streams() -> io::Result<()> {
    loop {
        let file = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        if std::os::fd::AsRawFd::as_raw_fd(&file) > 2 {
            return Ok(());
        }
        // Stays open for good: it is one of the three.
        std::mem::forget(file);
    }
}
