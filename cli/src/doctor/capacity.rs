//! How many sandboxes this node has room for.

use std::fs;
use std::path::Path;

use bulkhead_runtime::config::Config;
use nix::sys::statvfs::statvfs;

use super::Check;

/// Sandboxes that a node should have room for: Kubernetes puts at most 110 pods on one, and some leave slowly.
const SANDBOXES: u64 = 128;
/// The kinds of namespaces that a sandbox makes on the host; no more than four of each.
const NAMESPACES: [&str; 5] = ["mnt", "pid", "net", "ipc", "uts"];
const NAMESPACES_EACH: u64 = 4;
/// Threads of a sandbox on the host: shim, QEMU with its virtual CPUs, file server, anchor of each process.
const TASKS_EACH: u64 = 64;
/// Descriptors of a shim or a file server: one for each file that a guest has open, and this many is not many.
const OPEN_FILES: u64 = 65_536;
/// State, sockets and the console's log of a sandbox, in MiB: the log ends at one.
const STATE_MIB_EACH: u64 = 2;
/// Neighbours of a node's own that share the table with one for each sandbox.
const OTHER_NEIGHBOURS: u64 = 128;

const MIB: u64 = 1024 * 1024;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![
        namespaces(Path::new("/proc/sys/user")),
        tasks(
            number("/proc/sys/kernel/pid_max"),
            number("/proc/sys/kernel/threads-max"),
        ),
        open_files(&fs::read_to_string("/proc/self/limits").unwrap_or_default()),
        neighbours(number("/proc/sys/net/ipv4/neigh/default/gc_thresh3")),
        space("state-space", &config.state_dir, SANDBOXES * STATE_MIB_EACH),
    ];
    if config.templates {
        checks.push(space(
            "template-space",
            &config.template_dir,
            config.max_templates_mib.into(),
        ));
    }
    checks
}

fn namespaces(limits: &Path) -> Check {
    const ID: &str = "namespaces";
    let wanted = SANDBOXES * NAMESPACES_EACH;
    let few = |least: u64| -> Vec<String> {
        NAMESPACES
            .iter()
            .filter_map(|kind| {
                let limit = number(limits.join(format!("max_{kind}_namespaces")))?;
                (limit < least).then(|| format!("max_{kind}_namespaces is {limit}"))
            })
            .collect()
    };
    let remedy = format!("sysctl user.max_KIND_namespaces={wanted}, or more");
    // One sandbox has this many.
    let too_few = few(NAMESPACES_EACH);
    if !too_few.is_empty() {
        return Check::fatal(ID, too_few.join(", "), remedy);
    }
    let scarce = few(wanted);
    if scarce.is_empty() {
        return Check::ok(ID, format!("enough for {SANDBOXES} sandboxes"));
    }
    Check::warning(ID, scarce.join(", "), remedy)
}

fn tasks(pid_max: Option<u64>, threads_max: Option<u64>) -> Check {
    const ID: &str = "tasks";
    let (Some(pid_max), Some(threads_max)) = (pid_max, threads_max) else {
        return Check::warning(ID, "kernel.pid_max cannot be read", "mount /proc");
    };
    let evidence = format!("pid_max is {pid_max}, threads-max {threads_max}");
    let wanted = SANDBOXES * TASKS_EACH;
    if pid_max.min(threads_max) < wanted {
        let remedy = format!("sysctl kernel.pid_max={wanted} kernel.threads-max={wanted}, or more");
        return Check::warning(ID, evidence, remedy);
    }
    Check::ok(ID, evidence)
}

/// This process's own limit, which containerd's may differ from.
fn open_files(limits: &str) -> Check {
    const ID: &str = "open-files";
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let hard = line.and_then(|line| line.split_ascii_whitespace().nth(4));
    match hard {
        Some("unlimited") => Check::ok(ID, "unlimited"),
        Some(hard) if hard.parse().is_ok_and(|hard: u64| hard >= OPEN_FILES) => {
            Check::ok(ID, format!("at most {hard} each process"))
        }
        Some(hard) => Check::warning(
            ID,
            format!("at most {hard} each process: guests that open more files see EMFILE"),
            format!("LimitNOFILE={OPEN_FILES} or more in containerd's unit"),
        ),
        None => Check::warning(ID, "/proc/self/limits cannot be read", "mount /proc"),
    }
}

/// The table of all network namespaces together: beyond this size the kernel drops packets.
fn neighbours(most: Option<u64>) -> Check {
    const ID: &str = "neighbours";
    let wanted = SANDBOXES + OTHER_NEIGHBOURS;
    match most {
        Some(most) if most < wanted => Check::warning(
            ID,
            format!("the kernel keeps at most {most} neighbours (ARP)"),
            format!("sysctl net.ipv4.neigh.default.gc_thresh3={wanted}, or more"),
        ),
        Some(most) => Check::ok(ID, format!("at most {most}")),
        None => Check::ok(ID, "the kernel has no limit to read"),
    }
}

fn space(id: &'static str, path: &Path, wanted_mib: u64) -> Check {
    // What is not there yet will be made in the nearest directory that is.
    let Some(directory) = path.ancestors().find(|directory| directory.is_dir()) else {
        return Check::warning(
            id,
            format!("{} is in no directory", path.display()),
            "give an absolute path",
        );
    };
    match statvfs(directory) {
        Ok(stat) => {
            let free = stat.blocks_available() * stat.fragment_size() / MIB;
            let evidence = format!("{free} MiB free for {}", path.display());
            if free < wanted_mib {
                return Check::warning(id, evidence, format!("{wanted_mib} MiB are wanted there"));
            }
            Check::ok(id, evidence)
        }
        Err(error) => Check::warning(
            id,
            format!("{}: {error}", directory.display()),
            "look at its disk",
        ),
    }
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn a_kind_of_namespace_that_is_forbidden_is_fatal_and_a_scarce_one_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let set = |kind: &str, limit: &str| {
            fs::write(
                directory.path().join(format!("max_{kind}_namespaces")),
                format!("{limit}\n"),
            )
            .unwrap();
        };
        assert_eq!(namespaces(directory.path()).status, Status::Ok);
        set("net", "100");
        let check = namespaces(directory.path());
        assert_eq!(check.status, Status::Warning);
        assert_eq!(check.evidence, "max_net_namespaces is 100");
        set("pid", "0");
        assert_eq!(namespaces(directory.path()).status, Status::Fatal);
    }

    #[test]
    fn numbers_below_what_a_full_node_needs_are_warnings() {
        assert_eq!(tasks(Some(4_194_304), Some(100_000)).status, Status::Ok);
        assert_eq!(tasks(Some(4_194_304), Some(5_000)).status, Status::Warning);
        assert_eq!(tasks(None, Some(5_000)).status, Status::Warning);
        assert_eq!(neighbours(Some(1024)).status, Status::Ok);
        assert_eq!(neighbours(Some(128)).status, Status::Warning);
    }

    #[test]
    fn the_hard_limit_of_open_files_counts() {
        let line = |hard: &str| {
            format!("Limit  Soft\nMax open files            1024                 {hard}       files\n")
        };
        assert_eq!(open_files(&line("524288")).status, Status::Ok);
        assert_eq!(open_files(&line("unlimited")).status, Status::Ok);
        assert_eq!(open_files(&line("4096")).status, Status::Warning);
        assert_eq!(open_files("").status, Status::Warning);
    }

    #[test]
    fn space_is_looked_for_where_the_directory_will_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not/yet");
        assert_eq!(space("s", &path, 0).status, Status::Ok);
        assert_eq!(space("s", &path, u64::MAX).status, Status::Warning);
    }
}
