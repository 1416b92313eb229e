//! What the host's kernel gives.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use bulkhead_runtime::config::Config;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use super::{Check, kernel_options};
use crate::ps;

/// mount_setattr(2), with which the host makes binds read-only, is of Linux 5.12.
const MIN_KERNEL: (u32, u32) = (5, 12);
/// Controllers without which a container's limits are not kept on the host.
const CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Clocks that are read without leaving the processor's own registers and memory.
const FAST_CLOCKS: &[&str] = &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        root(),
        kernel(&release),
        kernel_options::check(&release),
        tun(Path::new("/dev/net/tun")),
        clock(&fs::read_to_string(CLOCK_SOURCE).unwrap_or_default()),
        cgroups(Path::new("/sys/fs/cgroup")),
        state_dir(&config.state_dir),
        leftovers(&config.state_dir),
    ]
}

fn root() -> Check {
    if nix::unistd::geteuid().is_root() {
        Check::ok("root", "running as root, as containerd does")
    } else {
        Check::warning(
            "root",
            "not running as root: other checks may see less than containerd",
            "run it as root",
        )
    }
}

fn kernel(release: &str) -> Check {
    let (major, minor) = MIN_KERNEL;
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) if (a, b) >= MIN_KERNEL => {
            Check::ok("kernel-release", format!("Linux {release}"))
        }
        _ => Check::fatal(
            "kernel-release",
            format!("Linux {release}"),
            format!("Linux {major}.{minor} or newer is needed to share read-only mounts safely"),
        ),
    }
}

fn tun(path: &Path) -> Check {
    match fs::metadata(path) {
        Ok(file) if file.file_type().is_char_device() => {
            Check::ok("tun", format!("{} is there", path.display()))
        }
        Ok(_) => Check::fatal(
            "tun",
            format!("{} is no device", path.display()),
            "load the tun module",
        ),
        Err(error) => Check::fatal(
            "tun",
            format!("{}: {error}", path.display()),
            "load the tun module: modprobe tun",
        ),
    }
}

/// A guest under KVM reads its time from a page that the host fills, if the host's own clock allows it.
fn clock(source: &str) -> Check {
    const ID: &str = "clock";
    let source = source.trim();
    if FAST_CLOCKS.contains(&source) {
        return Check::ok(ID, source);
    }
    Check::warning(
        ID,
        format!("the host's clock is {source:?}: reading the time is slow, in guests too"),
        "see the kernel's log for why the TSC is not used",
    )
}

fn cgroups(mount: &Path) -> Check {
    const ID: &str = "cgroup";
    let remedy = "mount cgroup v2, or v1 with these controllers";
    let kind = match statfs(mount) {
        Ok(stat) => stat.filesystem_type(),
        Err(error) => return Check::fatal(ID, format!("{}: {error}", mount.display()), remedy),
    };
    let (mode, missing) = if kind == CGROUP2_SUPER_MAGIC {
        let listed = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        (
            "v2",
            missing(|name| listed.split_whitespace().any(|word| word == name)),
        )
    } else if kind == TMPFS_MAGIC {
        ("v1", missing(|name| mount.join(name).is_dir()))
    } else {
        return Check::fatal(ID, format!("{} is no cgroup mount", mount.display()), remedy);
    };
    if missing.is_empty() {
        return Check::ok(ID, format!("{mode}, with {}", CONTROLLERS.join(", ")));
    }
    Check::warning(
        ID,
        format!("{mode}, without {}: such limits are not kept", missing.join(", ")),
        remedy,
    )
}

fn missing(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    CONTROLLERS.iter().copied().filter(|name| !has(name)).collect()
}

fn state_dir(path: &Path) -> Check {
    const ID: &str = "state-dir";
    let directory = match fs::metadata(path) {
        Ok(directory) => directory,
        Err(_) => {
            return Check::ok(
                ID,
                format!("{} will be made for the first sandbox", path.display()),
            );
        }
    };
    let mode = directory.permissions().mode() & 0o777;
    let evidence = format!(
        "{} has mode {mode:o} and owner {}",
        path.display(),
        directory.uid()
    );
    if !directory.is_dir() {
        return Check::fatal(ID, format!("{} is no directory", path.display()), "remove it");
    }
    if mode & 0o077 != 0 || directory.uid() != 0 {
        let remedy = format!("chown root {0} && chmod 0700 {0}", path.display());
        return Check::warning(ID, format!("{evidence}: others can look into sandboxes"), remedy);
    }
    Check::ok(ID, evidence)
}

fn leftovers(state_dir: &Path) -> Check {
    const ID: &str = "sandboxes";
    let sandboxes = match ps::list(state_dir) {
        Ok(sandboxes) => sandboxes,
        Err(error) => return Check::warning(ID, error.to_string(), "run it as root"),
    };
    let dead: Vec<_> = sandboxes
        .iter()
        .filter(|sandbox| sandbox.status == ps::Status::Dead)
        .collect();
    let running = sandboxes.len() - dead.len();
    match dead.first() {
        None => Check::ok(ID, format!("{running} running, none left behind")),
        Some(first) => Check::warning(
            ID,
            format!(
                "{running} running, {} left behind, {}/{} first",
                dead.len(),
                first.namespace,
                first.id
            ),
            "containerd removes them when it deletes their containers; see `bulkhead ps`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, status) in [
            ("6.12.74+deb12-cloud-amd64\n", Status::Ok),
            ("5.12.0", Status::Ok),
            ("5.9.1", Status::Fatal),
            ("4.19.0-1", Status::Fatal),
            ("", Status::Fatal),
        ] {
            assert_eq!(kernel(release).status, status, "{release:?}");
        }
    }

    #[test]
    fn a_slow_clock_is_a_warning() {
        assert_eq!(clock("tsc\n").status, Status::Ok);
        assert_eq!(clock("hpet\n").status, Status::Warning);
    }

    #[test]
    fn an_open_state_directory_is_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(state_dir(path).status, Status::Warning);
        assert_eq!(state_dir(&path.join("none")).status, Status::Ok);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_mount_is_fatal() {
        assert_eq!(cgroups(Path::new("/proc")).status, Status::Fatal);
        assert_eq!(tun(Path::new("/proc/version")).status, Status::Fatal);
    }

    #[test]
    fn dead_sandboxes_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(leftovers(directory.path()).status, Status::Ok);
        fs::create_dir_all(directory.path().join("default/box")).unwrap();
        let check = leftovers(directory.path());
        assert_eq!(check.status, Status::Warning);
        assert!(check.evidence.contains("default/box"), "{}", check.evidence);
    }
}
