//! Everything of a sandbox on the host that is not a process.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Scope;
use crate::daemon::Daemon;
use crate::settings::Settings;

/// Lists mounts, links, network namespaces, cgroups, loop devices, sockets, and directories.
pub(super) fn list(scope: &Scope, daemon: &Daemon, items: &mut BTreeSet<String>) {
    mounts(scope, items);
    names(scope, "link", Path::new("/sys/class/net"), items);
    names(scope, "netns", Path::new("/run/netns"), items);
    names(scope, "shared memory", Path::new("/dev/shm"), items);
    cgroups(scope, daemon, Path::new("/sys/fs/cgroup"), items);
    loop_devices(scope, items);
    sockets(scope, items);
    directories(scope, daemon, items);
}

/// The name under which the shim of a container listens in `/run/containerd/s`.
pub(super) fn socket_name(daemon: &Daemon, id: &str) -> String {
    let address = format!("{}/{}/{id}", daemon.socket().display(), daemon.namespace());
    Sha256::digest(address.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn mounts(scope: &Scope, items: &mut BTreeSet<String>) {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    for line in table.lines() {
        // Mount ids change; what is mounted where does not.
        let what: Vec<&str> = line.split(' ').skip(3).collect();
        if scope.claims(line) {
            items.insert(format!("mount {}", what.join(" ")));
        }
    }
}

fn names(scope: &Scope, kind: &str, dir: &Path, items: &mut BTreeSet<String>) {
    for path in children(dir) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if scope.claims(&name) {
            items.insert(format!("{kind} {name}"));
        }
    }
}

/// The daemon's own cgroup is the common parent that containerd's clients name in every
/// container's `cgroupsPath`; no runtime removes it.
fn cgroups(scope: &Scope, daemon: &Daemon, dir: &Path, items: &mut BTreeSet<String>) {
    for path in children(dir).filter(|path| path.is_dir() && !path.is_symlink()) {
        if scope.claims(&path.display().to_string()) && !path.ends_with(daemon.name()) {
            items.insert(format!("cgroup {}", path.display()));
        }
        cgroups(scope, daemon, &path, items);
    }
}

/// Removes the daemon's own, by now empty, cgroups.
pub(super) fn remove_cgroup_parents(daemon: &Daemon) {
    let root = Path::new("/sys/fs/cgroup");
    let parents = children(root)
        .map(|dir| dir.join(daemon.name()))
        .chain([root.join(daemon.name())]);
    for parent in parents.filter(|parent| parent.is_dir()) {
        if let Err(error) = fs::remove_dir(&parent) {
            eprintln!("{}: {error}", parent.display());
        }
    }
}

fn loop_devices(scope: &Scope, items: &mut BTreeSet<String>) {
    for device in children(Path::new("/sys/block")) {
        let Ok(file) = fs::read_to_string(device.join("loop/backing_file")) else {
            continue;
        };
        if scope.claims(&file) {
            items.insert(format!("loop device {} of {}", device.display(), file.trim_end()));
        }
    }
}

fn sockets(scope: &Scope, items: &mut BTreeSet<String>) {
    for path in children(Path::new("/run/containerd/s")) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // A runc shim that is killed leaves its socket: against the reference only a live one counts.
        let counts = Settings::get().is_vm() || UnixStream::connect(&path).is_ok();
        if counts && (scope.exclusive || scope.sockets.contains(&name)) {
            items.insert(format!("socket {}", path.display()));
        }
    }
}

/// Bundles, fifos, runtime state: every path below these belongs to some container.
fn directories(scope: &Scope, daemon: &Daemon, items: &mut BTreeSet<String>) {
    let namespace = daemon.namespace();
    let mut parents = vec![
        daemon.path("fifo"),
        daemon.path(&format!("state/io.containerd.runtime.v2.task/{namespace}")),
        daemon.path(&format!("root/io.containerd.runtime.v2.task/{namespace}")),
        PathBuf::from(format!("/run/bulkhead/{namespace}")),
        PathBuf::from(format!("/run/containerd/runc/{namespace}")),
    ];
    if scope.exclusive && Settings::get().is_vm() {
        // What begins with a dot belongs to no sandbox.
        let of_a_namespace = |path: &PathBuf| {
            path.file_name()
                .is_none_or(|name| name.as_encoded_bytes()[0] != b'.')
        };
        parents.extend(children(Path::new("/run/bulkhead")).filter(of_a_namespace));
    }
    for parent in parents {
        items.extend(children(&parent).map(|path| format!("path {}", path.display())));
    }
}

/// The entries of a directory; none if it is not there or goes away meanwhile.
fn children(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}
