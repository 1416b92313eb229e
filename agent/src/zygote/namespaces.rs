//! The namespaces of a new container: those it joins, those that are made with its init, and what is set in them.

use std::fs::{self, File};
use std::path::Path;

use bulkhead_agent_protocol::message::FailureKind;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};

use crate::container::spec::clone_flag;
use crate::failure::Failure;

/// `CLONE_NEWTIME`, which nix does not know.
const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// What nearly every container has of its own, beside a cgroup namespace, which init makes.
pub const USUAL: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Whether `linux` asks for just those.
pub fn are_usual(linux: &Linux) -> bool {
    let namespaces = || linux.namespaces().iter().flatten();
    let asked = namespaces().fold(CloneFlags::empty(), |flags, namespace| {
        flags | CloneFlags::from_bits_retain(clone_flag(namespace.typ()))
    });
    asked - CloneFlags::CLONE_NEWCGROUP == USUAL && namespaces().all(|namespace| namespace.path().is_none())
}

/// Joins what `linux` names by a path, and returns what is to be made with init. Call it in the worker.
///
/// # Errors
/// `Other`, naming the path.
pub fn join(linux: &Linux) -> Result<CloneFlags, Failure> {
    let mut new = CloneFlags::empty();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = CloneFlags::from_bits_retain(clone_flag(namespace.typ()));
        let Some(path) = namespace.path() else {
            new |= kind;
            continue;
        };
        let stage = || format!("join namespace {}", path.display());
        let file = File::open(path).map_err(|error| Failure::os(FailureKind::Other, stage(), &error))?;
        setns(file, kind).map_err(|errno| Failure::os(FailureKind::Other, stage(), &errno))?;
    }
    if new.contains(NEW_TIME) {
        // Its clocks are set before anybody is in it, which is the next process that this one makes.
        unshare(NEW_TIME).map_err(|errno| Failure::os(FailureKind::Other, "make time namespace", &errno))?;
        set_clocks(linux)?;
    }
    // Made by init itself, once it is in its cgroup: the cgroup of who makes it becomes its root.
    Ok(new - NEW_TIME - CloneFlags::CLONE_NEWCGROUP)
}

/// Makes the cgroup namespace, whose root is the cgroup that this process is in. Call it in init.
///
/// # Errors
/// `Other`.
pub fn hide_cgroups() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| Failure::os(FailureKind::Other, "make cgroup namespace", &errno))
}

/// Sets names and kernel settings. Call it in init.
///
/// # Errors
/// `Other`, naming the setting.
pub fn furnish(spec: &Spec) -> Result<(), Failure> {
    let failed = |stage: &'static str| move |errno: Errno| Failure::os(FailureKind::Other, stage, &errno);
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref());
    let own_names =
        |namespace: &LinuxNamespace| namespace.typ() == LinuxNamespaceType::Uts && namespace.path().is_none();
    // In a namespace that it shares, a container does not rename the others.
    if namespaces.unwrap_or_default().iter().any(own_names) {
        if let Some(name) = spec.hostname() {
            nix::unistd::sethostname(name).map_err(failed("set host name"))?;
        }
        if let Some(name) = spec.domainname() {
            set_sysctl("kernel.domainname", name)?;
        }
    }
    let sysctls = linux.and_then(|linux| linux.sysctl().as_ref());
    for (name, value) in sysctls.into_iter().flatten() {
        set_sysctl(name, value)?;
    }
    Ok(())
}

/// Sets a kernel setting of the namespaces that this process is in.
///
/// # Errors
/// `Other`, naming it.
pub fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    // With slashes, dots belong to names (of VLAN interfaces); without, they separate.
    let below = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    fs::OpenOptions::new()
        .write(true)
        .open(Path::new("/proc/sys").join(below))
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| {
            let stage = format!("set sysctl {name} to {value:?}");
            Failure::os(FailureKind::Other, stage, &error)
        })
}

fn set_clocks(linux: &Linux) -> Result<(), Failure> {
    let lines: String = linux
        .time_offsets()
        .iter()
        .flatten()
        .map(|(clock, offset)| line_of(clock, offset))
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    fs::write("/proc/self/timens_offsets", lines)
        .map_err(|error| Failure::os(FailureKind::Other, "set time offsets", &error))
}

fn line_of(clock: &str, offset: &LinuxTimeOffset) -> String {
    let (seconds, nanoseconds) = (
        offset.secs().unwrap_or_default(),
        offset.nanosecs().unwrap_or_default(),
    );
    format!("{clock} {seconds} {nanoseconds}\n")
}
