//! The rest of `linux`: seccomp, masked paths, sysctls, labels, and what has no meaning in a VM.

use std::path::Path;

use oci_spec::runtime::{Linux, LinuxSeccomp, LinuxSeccompAction, Spec};

use crate::error::{PlanError, invalid, unsupported};
use crate::path::absolute;

/// Most masked or read-only paths; containerd's own list has 14.
const MAX_PATHS: usize = 4096;
/// Most sysctls.
const MAX_SYSCTLS: usize = 4096;

pub(crate) fn check(spec: &Spec, linux: &Linux) -> Result<(), PlanError> {
    other_platforms(spec)?;
    linux.seccomp().as_ref().map_or(Ok(()), seccomp)?;
    paths("linux.maskedPaths", linux.masked_paths().as_deref())?;
    paths("linux.readonlyPaths", linux.readonly_paths().as_deref())?;
    sysctls(linux)?;
    host_hardware(linux)?;
    personality(linux)
}

fn other_platforms(spec: &Spec) -> Result<(), PlanError> {
    if spec.vm().is_some() {
        let reason = "which VM a container gets is the configuration's to say, not the spec's";
        return Err(unsupported("vm", reason));
    }
    let foreign = [
        ("windows", spec.windows().is_some()),
        ("solaris", spec.solaris().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    match foreign.into_iter().find(|(_, is_set)| *is_set) {
        Some((platform, _)) => Err(unsupported(platform, "containers are Linux containers")),
        None => Ok(()),
    }
}

fn seccomp(seccomp: &LinuxSeccomp) -> Result<(), PlanError> {
    let calls = seccomp.syscalls().as_deref().unwrap_or_default();
    let mut actions = calls
        .iter()
        .map(|call| call.action())
        .chain([seccomp.default_action()]);
    let has_listener = seccomp
        .listener_path()
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty());
    if has_listener || actions.any(|action| action == LinuxSeccompAction::ScmpActNotify) {
        let reason = "a process of the host cannot answer for system calls of the guest";
        return Err(unsupported("linux.seccomp.listenerPath", reason));
    }
    for (n, call) in calls.iter().enumerate() {
        if call.args().iter().flatten().any(|arg| arg.index() > 5) {
            let field = format!("linux.seccomp.syscalls[{n}].args");
            return Err(invalid(field, "a system call has six arguments, 0 to 5"));
        }
    }
    Ok(())
}

fn paths(field: &str, list: Option<&[String]>) -> Result<(), PlanError> {
    let list = list.unwrap_or_default();
    if list.len() > MAX_PATHS {
        return Err(invalid(
            field,
            format!("{} paths, more than {MAX_PATHS}", list.len()),
        ));
    }
    for (n, path) in list.iter().enumerate() {
        absolute(&format!("{field}[{n}]"), Path::new(path))?;
    }
    Ok(())
}

fn sysctls(linux: &Linux) -> Result<(), PlanError> {
    let sysctls = linux.sysctl().iter().flatten();
    if linux.sysctl().as_ref().map_or(0, |map| map.len()) > MAX_SYSCTLS {
        return Err(invalid(
            "linux.sysctl",
            format!("has more than {MAX_SYSCTLS} entries"),
        ));
    }
    for (key, value) in sysctls {
        // Both spellings are in use: net.ipv4.ip_forward and net/ipv4/ip_forward.
        let mut parts = key.split(['.', '/']);
        let is_name = |part: &str| !part.is_empty() && !part.contains('\0');
        if !parts.all(is_name) || value.contains('\0') {
            let reason = format!("{key:?} is not the name of a sysctl, or its value has a NUL byte");
            return Err(invalid("linux.sysctl", reason));
        }
    }
    Ok(())
}

/// The rootfs's propagation in the words that the guest's executor knows: it always means the whole tree.
pub(crate) fn propagation(linux: &Linux) -> Result<Option<String>, PlanError> {
    const FIELD: &str = "linux.rootfsPropagation";
    let word = match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "" => return Ok(None),
        "private" | "rprivate" => "private",
        "slave" | "rslave" => "slave",
        "unbindable" | "runbindable" => "unbindable",
        "shared" | "rshared" => {
            let reason = "mounts made in the guest cannot appear on the host; use rslave or rprivate";
            return Err(unsupported(FIELD, reason));
        }
        other => return Err(invalid(FIELD, format!("{other:?} is not a kind of propagation"))),
    };
    Ok(Some(word.into()))
}

fn host_hardware(linux: &Linux) -> Result<(), PlanError> {
    if linux
        .net_devices()
        .as_ref()
        .is_some_and(|devices| !devices.is_empty())
    {
        let reason = "a network device of the host cannot be moved into the guest";
        return Err(unsupported("linux.netDevices", reason));
    }
    if linux.intel_rdt().is_some() {
        return Err(unsupported(
            "linux.intelRdt",
            "the guest cannot partition the host's caches",
        ));
    }
    if linux.memory_policy().is_some() {
        return Err(unsupported("linux.memoryPolicy", "the guest has one memory node"));
    }
    Ok(())
}

fn personality(linux: &Linux) -> Result<(), PlanError> {
    let flags = linux.personality().as_ref().and_then(|p| p.flags().as_deref());
    if flags.is_some_and(|flags| !flags.is_empty()) {
        let reason = "the specification defines no flags";
        return Err(unsupported("linux.personality.flags", reason));
    }
    Ok(())
}
