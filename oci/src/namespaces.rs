//! `linux.namespaces`, and what goes with them: `hostname`, `domainname`, id mappings, time offsets.
//!
//! The VM stands for the sandbox: what the sandbox's containers share on a host, they share in the guest by
//! living in the guest's own (root) namespace of that kind. So a shared namespace is one that the guest's
//! spec does not list.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, Spec};

use crate::error::{PlanError, invalid, unsupported};
use crate::group::Role;
use crate::path::absolute;
use crate::plan::{NetworkNamespace, PidNamespace};

/// The kernel's limit for host and domain names (__NEW_UTS_LEN).
const MAX_HOSTNAME_LEN: usize = 64;

/// Namespaces of host and guest.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// For the host to make or join.
    pub network: NetworkNamespace,
    /// For the runtime to look up.
    pub pid: PidNamespace,
    /// Those the guest makes anew for the container.
    pub guest: Vec<LinuxNamespace>,
    /// `hostname`, if the container has a UTS namespace of its own.
    pub hostname: Option<String>,
    /// `domainname`, likewise.
    pub domainname: Option<String>,
}

/// One kind of namespace in the spec.
enum Asked {
    /// Not listed: the host's.
    Host,
    /// Listed without a path.
    New,
    /// Listed with one.
    Path(PathBuf),
}

pub(crate) fn translate(
    spec: &Spec,
    linux: &Linux,
    role: Role,
    warnings: &mut Vec<String>,
) -> Result<Namespaces, PlanError> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, Uts};

    let list = linux.namespaces().as_deref().unwrap_or_default();
    refuse_duplicates(list)?;
    refuse_user_namespaces(linux, list)?;
    if !matches!(asked(list, Mount)?, Asked::New) {
        let reason = "a container needs a mount namespace of its own";
        return Err(unsupported("linux.namespaces[mount]", reason));
    }
    let pid = pid(asked(list, Pid)?)?;
    let network = network(asked(list, Network)?, warnings);
    let owns_ipc = shareable(asked(list, Ipc)?, "ipc", role)?;
    let has_names = spec.hostname().is_some() || spec.domainname().is_some();
    let owns_uts = match asked(list, Uts)? {
        // There is no host's name to protect, and a container of a hostNetwork pod has the node's to show.
        Asked::Host => has_names,
        uts => shareable(uts, "uts", role)?,
    };
    let owns_time = time(linux, asked(list, Time)?)?;

    // A cgroup namespace hides nothing but the guest's own layout, so every container has one.
    let owned = [
        (Pid, pid == PidNamespace::New),
        (Ipc, owns_ipc),
        (Uts, owns_uts),
        (Mount, true),
        (Cgroup, true),
        (Time, owns_time),
    ];
    let hostname = name("hostname", spec.hostname().as_ref(), owns_uts, warnings)?;
    let domainname = name("domainname", spec.domainname().as_ref(), owns_uts, warnings)?;
    Ok(Namespaces {
        network,
        pid,
        guest: owned
            .into_iter()
            .filter(|(_, owns)| *owns)
            .map(|(kind, _)| new_namespace(kind))
            .collect(),
        hostname,
        domainname,
    })
}

fn refuse_duplicates(list: &[LinuxNamespace]) -> Result<(), PlanError> {
    for (n, namespace) in list.iter().enumerate() {
        if list[..n].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            let reason = format!("{} is listed twice", namespace.typ());
            return Err(invalid(format!("linux.namespaces[{n}]"), reason));
        }
    }
    Ok(())
}

fn refuse_user_namespaces(linux: &Linux, list: &[LinuxNamespace]) -> Result<(), PlanError> {
    let mapped = [linux.uid_mappings(), linux.gid_mappings()];
    let is_mapped = mapped.into_iter().flatten().any(|mappings| !mappings.is_empty());
    if is_mapped || list.iter().any(|n| n.typ() == LinuxNamespaceType::User) {
        let reason = "user namespaces are not there yet, and the VM already keeps the container's root from \
                      the host's; remove `hostUsers: false` or the uid map";
        return Err(unsupported("linux.namespaces[user]", reason));
    }
    Ok(())
}

fn asked(list: &[LinuxNamespace], kind: LinuxNamespaceType) -> Result<Asked, PlanError> {
    let Some(namespace) = list.iter().find(|n| n.typ() == kind) else {
        return Ok(Asked::Host);
    };
    match namespace
        .path()
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
    {
        None => Ok(Asked::New),
        Some(path) => absolute(&format!("linux.namespaces[{kind}].path"), path).map(Asked::Path),
    }
}

fn network(asked: Asked, warnings: &mut Vec<String>) -> NetworkNamespace {
    match asked {
        Asked::New => NetworkNamespace::New,
        Asked::Path(path) => NetworkNamespace::Path(path),
        Asked::Host => {
            warnings.push(
                "the host's network was asked for, and a VM cannot join it: the container has loopback alone"
                    .into(),
            );
            NetworkNamespace::Host
        }
    }
}

fn pid(asked: Asked) -> Result<PidNamespace, PlanError> {
    let path = match asked {
        Asked::New => return Ok(PidNamespace::New),
        Asked::Host => return Ok(PidNamespace::Host),
        Asked::Path(path) => path,
    };
    process_of(&path, "pid")
        .map(PidNamespace::OfProcess)
        .ok_or_else(|| {
            let reason = format!("{path:?} is not /proc/<pid>/ns/pid of a container of the same sandbox");
            unsupported("linux.namespaces[pid].path", reason)
        })
}

/// The process that `/proc/<pid>/ns/<kind>` names.
fn process_of(path: &Path, kind: &str) -> Option<u32> {
    let mut parts = path.strip_prefix("/proc").ok()?.iter().map(|part| part.to_str());
    let pid = parts.next()??.parse().ok()?;
    parts.eq([Some("ns"), Some(kind)]).then_some(pid)
}

/// The processes whose network or PID namespace a container is to join. Where one is another container's, as with
/// `nerdctl run --network container:NAME`, both belong into one VM.
pub fn joined_processes(spec: &Spec) -> Vec<u32> {
    let list = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref());
    let joined = list.unwrap_or_default().iter().filter_map(|namespace| {
        let kind = match namespace.typ() {
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Pid => "pid",
            _ => return None,
        };
        process_of(namespace.path().as_deref()?, kind)
    });
    joined.collect()
}

/// Whether the guest makes a new namespace of this kind.
fn shareable(asked: Asked, kind: &str, role: Role) -> Result<bool, PlanError> {
    match asked {
        Asked::New => Ok(true),
        Asked::Host => Ok(false),
        Asked::Path(path) => refuse_strangers(kind, &path, role).map(|()| false),
    }
}

/// A container alone in its VM has nobody to share a namespace with.
fn refuse_strangers(kind: &str, path: &Path, role: Role) -> Result<(), PlanError> {
    if role == Role::Member {
        return Ok(());
    }
    let reason = format!(
        "{path:?} is a namespace outside of the container's VM; only containers of one pod can share it"
    );
    Err(unsupported(format!("linux.namespaces[{kind}].path"), reason))
}

fn time(linux: &Linux, asked: Asked) -> Result<bool, PlanError> {
    let offsets = linux.time_offsets().iter().flatten();
    let owns = match asked {
        Asked::New => true,
        Asked::Host => false,
        Asked::Path(path) => {
            let reason = format!("{path:?} is a namespace outside of the container's VM");
            return Err(unsupported("linux.namespaces[time].path", reason));
        }
    };
    for (clock, _) in offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let reason = format!("{clock:?} is neither \"monotonic\" nor \"boottime\"");
            return Err(invalid("linux.timeOffsets", reason));
        }
        if !owns {
            return Err(invalid("linux.timeOffsets", "there is no time namespace"));
        }
    }
    Ok(owns)
}

fn name(
    field: &str,
    name: Option<&String>,
    owns_uts: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, PlanError> {
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    if name.len() > MAX_HOSTNAME_LEN || name.contains('\0') {
        let reason = format!("{name:?} is not a name of at most {MAX_HOSTNAME_LEN} bytes");
        return Err(invalid(field, reason));
    }
    if owns_uts {
        return Ok(Some(name.clone()));
    }
    warnings.push(format!(
        "{field} {name:?} is ignored: the container shares its sandbox's UTS namespace"
    ));
    Ok(None)
}

fn new_namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind);
    namespace
}
