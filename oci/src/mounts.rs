//! `mounts`: binds come from the host through the share, everything else is made in the guest.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};

use crate::error::{PlanError, invalid, unsupported};
use crate::mount_options::{self, BindOptions};
use crate::path::absolute;
use crate::plan::{BindMount, GuestPaths};

/// Most mounts of a container. Each bind is a mount on the host too, and the kernel allows 100 000 per
/// mount namespace, which all sandboxes share.
const MAX_MOUNTS: usize = 4096;
/// Most options of one mount.
const MAX_OPTIONS: usize = 256;
/// Longest `type`, far above any the kernel has.
const MAX_TYPE_LEN: usize = 64;

/// Where the agent mounts the tmpfs that all containers of a sandbox share as /dev/shm.
pub const GUEST_SHM: &str = "/dev/shm";

/// File systems that a guest's kernel has by itself: they name no device, file or server of the host.
const GUEST_TYPES: &[&str] = &[
    "bpf",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "mqueue",
    "proc",
    "ramfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Below /proc, only these files may be mounted over: they inform, they control nothing.
/// (CVE-2019-16884, CVE-2019-19921: a mount over the rest gets around masks and security modules.)
const PROC_ALLOWED: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// Both halves of `mounts`.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// Shared by the host.
    pub binds: Vec<BindMount>,
    /// Made by the guest, in the spec's order.
    pub guest: Vec<Mount>,
}

pub(crate) fn translate(
    spec: &Spec,
    guest: &GuestPaths,
    warnings: &mut Vec<String>,
) -> Result<Mounts, PlanError> {
    let list = spec.mounts().as_deref().unwrap_or_default();
    if list.len() > MAX_MOUNTS {
        let reason = format!("{} mounts, more than {MAX_MOUNTS}", list.len());
        return Err(invalid("mounts", reason));
    }
    let mut mounts = Mounts::default();
    for (n, mount) in list.iter().enumerate() {
        let field = format!("mounts[{n}]");
        let destination = destination(&field, mount)?;
        check_common(&field, mount)?;
        let mount = if is_bind(mount) {
            bind(&field, mount, destination, guest, &mut mounts.binds, warnings)?
        } else {
            native(&field, mount, destination)?
        };
        mounts.guest.push(mount);
    }
    Ok(mounts)
}

fn destination(field: &str, mount: &Mount) -> Result<PathBuf, PlanError> {
    let field = format!("{field}.destination");
    let destination = absolute(&field, mount.destination())?;
    if destination == Path::new("/") {
        return Err(invalid(field, "a mount on / would hide the rootfs"));
    }
    if let Ok(below) = destination.strip_prefix("/proc") {
        let is_procfs = below.as_os_str().is_empty() && mount.typ().as_deref() == Some("proc");
        let is_allowed = below.to_str().is_some_and(|file| PROC_ALLOWED.contains(&file));
        if !is_procfs && !is_allowed {
            let reason = format!("{destination:?} cannot be mounted over: it is inside /proc");
            return Err(invalid(field, reason));
        }
    }
    Ok(destination)
}

fn check_common(field: &str, mount: &Mount) -> Result<(), PlanError> {
    if mount.typ().as_deref().is_some_and(|typ| typ.len() > MAX_TYPE_LEN) {
        let reason = format!("is longer than {MAX_TYPE_LEN} bytes");
        return Err(invalid(format!("{field}.type"), reason));
    }
    let options = mount.options().as_deref().unwrap_or_default();
    if options.len() > MAX_OPTIONS {
        let reason = format!("{} options, more than {MAX_OPTIONS}", options.len());
        return Err(invalid(format!("{field}.options"), reason));
    }
    if let Some(n) = options.iter().position(|option| option.contains('\0')) {
        return Err(invalid(format!("{field}.options[{n}]"), "contains a NUL byte"));
    }
    let mapped = |mappings: &Option<Vec<_>>| mappings.as_ref().is_some_and(|m| !m.is_empty());
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        return Err(id_mapped(field));
    }
    Ok(())
}

fn is_bind(mount: &Mount) -> bool {
    let mut options = mount.options().iter().flatten();
    mount.typ().as_deref() == Some("bind") || options.any(|o| o == "bind" || o == "rbind")
}

fn bind(
    field: &str,
    mount: &Mount,
    destination: PathBuf,
    guest: &GuestPaths,
    binds: &mut Vec<BindMount>,
    warnings: &mut Vec<String>,
) -> Result<Mount, PlanError> {
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let source = absolute(&format!("{field}.source"), source)?;
    let mut options = mount_options::parse(mount.options().as_deref().unwrap_or_default());
    if options.propagates_to_host {
        let reason = "mounts made in the guest cannot appear on the host; use rslave or rprivate";
        return Err(unsupported(format!("{field}.options"), reason));
    }
    if options.follows_host && options.recursive_read_only {
        let reason = "what the host mounts later has flags of its own, which no rro reaches; use rprivate";
        return Err(unsupported(format!("{field}.options"), reason));
    }
    if options.id_mapped {
        return Err(id_mapped(field));
    }
    if !options.ignored.is_empty() {
        let ignored = options.ignored.join(",");
        warnings.push(format!(
            "{field} on {destination:?}: a bind mount ignores {ignored:?}"
        ));
    }
    if is_shared_memory(&source, &destination) {
        return Ok(shared_memory(destination, options));
    }
    if is_message_queues(&source, &destination) {
        return Ok(guest_mount(
            destination,
            "mqueue",
            PathBuf::from("mqueue"),
            options.without_bind(),
        ));
    }
    if !options.guest.iter().any(|o| o == "bind" || o == "rbind") {
        options.guest.push("bind".into());
    }
    let index = binds.len();
    binds.push(BindMount {
        index,
        source,
        read_only: options.read_only || options.recursive_read_only,
        recursive: options.recursive,
        recursive_read_only: options.recursive_read_only,
        follows_host: options.follows_host,
        destination: destination.clone(),
    });
    let source = guest.container.join("mounts").join(index.to_string());
    Ok(guest_mount(destination, "bind", source, options.guest))
}

/// The /dev/shm that containers of a sandbox share. CRI makes it a tmpfs of the host
/// (`.../sandboxes/<id>/shm`, or the host's own for hostIPC), but memory cannot be shared through a file
/// server: two mappings of one file would not see each other's writes.
fn is_shared_memory(source: &Path, destination: &Path) -> bool {
    let is_cri =
        source.file_name().is_some_and(|name| name == "shm") && source.iter().any(|part| part == "sandboxes");
    destination == Path::new("/dev/shm") && (is_cri || source == Path::new("/dev/shm"))
}

/// The host's message queues (`nerdctl run --ipc host`) are objects of its kernel, not files; the guest's
/// own stand in for them, as its network and processes do for the host's.
fn is_message_queues(source: &Path, destination: &Path) -> bool {
    let mqueue = Path::new("/dev/mqueue");
    source == mqueue && destination == mqueue
}

fn shared_memory(destination: PathBuf, options: BindOptions) -> Mount {
    guest_mount(destination, "bind", PathBuf::from(GUEST_SHM), options.guest)
}

fn native(field: &str, mount: &Mount, destination: PathBuf) -> Result<Mount, PlanError> {
    let typ = mount.typ().as_deref().unwrap_or_default();
    if GUEST_TYPES.binary_search(&typ).is_err() {
        let reason = match typ {
            "" | "none" => "is empty, and the options have neither bind nor rbind".into(),
            _ => {
                format!("{typ:?} would need the host's devices or servers; mount it on the host and bind it")
            }
        };
        return Err(unsupported(format!("{field}.type"), reason));
    }
    let options = mount.options().clone().unwrap_or_default();
    if options.iter().any(|option| option == "tmpcopyup") {
        let reason = "\"tmpcopyup\" is an extension of runc that the guest does not have";
        return Err(unsupported(format!("{field}.options"), reason));
    }
    // The guest has cgroup v2 alone, and "cgroup" means "what there is".
    let typ = if typ == "cgroup2" { "cgroup" } else { typ };
    // Its source only names it in /proc/mounts.
    let source = mount.source().clone().unwrap_or_else(|| typ.into());
    Ok(guest_mount(destination, typ, source, options))
}

fn id_mapped(field: &str) -> PlanError {
    unsupported(
        field,
        "id-mapped mounts need a user namespace, which containers do not have",
    )
}

fn guest_mount(destination: PathBuf, typ: &str, source: PathBuf, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(destination);
    mount.set_typ(Some(typ.to_owned()));
    mount.set_source(Some(source));
    mount.set_options(Some(options));
    mount
}
