//! Processes that belong to a sandbox.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::Scope;
use crate::daemon::Daemon;

/// Names of the programs that a sandbox runs.
const PROGRAMS: [&str; 5] = ["bulkhead", "containerd-shim", "qemu-system", "runc", "virtiofsd"];

/// Lists the shims, VMMs, helpers and containers of this daemon.
pub(super) fn list(scope: &Scope, daemon: &Daemon, items: &mut BTreeSet<String>) {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A containerd that is up belongs to the harness, and so do its own children before they exec.
        if pid == own || daemon.is_up_as(pid) {
            continue;
        }
        let dir = entry.path();
        let name = read(&dir, "comm");
        let command = read(&dir, "cmdline");
        let cgroup = read(&dir, "cgroup");
        let by_program = scope.exclusive && PROGRAMS.iter().any(|program| runs(program, &name, &command));
        if by_program || scope.is_marked(&command) || scope.is_marked(&cgroup) {
            // Whether it runs or sleeps changes all the time; that it waits to be reaped says what is wrong.
            let stat = read(&dir, "stat");
            let is_zombie = stat
                .rsplit(") ")
                .next()
                .is_some_and(|state| state.starts_with('Z'));
            let note = if is_zombie { " (zombie)" } else { "" };
            items.insert(format!("process {pid} {name}{note} {command}"));
        }
    }
}

fn runs(program: &str, name: &str, command: &str) -> bool {
    let first = command.split(' ').next().unwrap_or_default();
    let file = Path::new(first)
        .file_name()
        .and_then(|file| file.to_str())
        .unwrap_or_default();
    name.starts_with(program) || (file.starts_with(program) && !file.starts_with("bulkhead-bench"))
}

/// A small file of a process that may end at any moment; empty if it has.
fn read(dir: &Path, name: &str) -> String {
    let bytes = fs::read(dir.join(name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}
