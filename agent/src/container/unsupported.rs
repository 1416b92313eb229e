//! What a spec may say and a guest does not do. Each is an error that names the field; nothing is dropped. Pure.

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, Spec};

use crate::failure::Failure;

/// Whether a guest does all of `spec`.
///
/// # Errors
/// `InvalidArgument` or `Unsupported`.
pub fn check(spec: &Spec) -> Result<(), Failure> {
    check_root(spec)?;
    check_hooks(spec)?;
    check_mounts(spec)?;
    spec.linux().as_ref().map_or(Ok(()), check_linux)
}

fn check_root(spec: &Spec) -> Result<(), Failure> {
    let path = spec.root().as_ref().map(|root| root.path());
    match path {
        Some(path) if path.is_absolute() => Ok(()),
        Some(path) => Err(Failure::invalid(format!("root.path {path:?} is not absolute"))),
        None => Err(Failure::invalid("config.json: root is missing")),
    }
}

/// Hooks of the host were run there and are not in a guest's spec. Those that init runs are the container's own
/// programs; others would need the host's.
fn check_hooks(spec: &Spec) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "prestart is deprecated, and its use is what is refused")]
    let all = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    if all.into_iter().flatten().any(|hooks| !hooks.is_empty()) {
        return Err(Failure::unsupported(
            "hooks: none but startContainer run in a guest",
        ));
    }
    Ok(())
}

fn check_mounts(spec: &Spec) -> Result<(), Failure> {
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        if !destination.is_absolute() {
            return Err(Failure::invalid(format!(
                "mounts: destination {destination:?} is not absolute"
            )));
        }
        let shared = mount.options().iter().flatten().find(|option| {
            matches!(
                option.as_str(),
                "shared" | "rshared" | "idmap" | "ridmap" | "tmpcopyup"
            )
        });
        if let Some(option) = shared {
            return Err(Failure::unsupported(format!(
                "mounts: {destination:?}: option {option}"
            )));
        }
    }
    Ok(())
}

fn check_linux(linux: &Linux) -> Result<(), Failure> {
    if linux.intel_rdt().is_some() || linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Failure::unsupported(
            "linux.intelRdt and linux.netDevices: a guest has neither",
        ));
    }
    if linux.memory_policy().is_some() {
        return Err(Failure::unsupported("linux.memoryPolicy: a guest has one node"));
    }
    let user = |namespace: &LinuxNamespace| namespace.typ() == LinuxNamespaceType::User;
    if linux.namespaces().iter().flatten().any(user) {
        return Err(Failure::unsupported(
            "linux.namespaces: a guest has no user namespaces",
        ));
    }
    let propagation = linux.rootfs_propagation().as_deref();
    if let Some(other @ ("shared" | "rshared")) = propagation {
        return Err(Failure::unsupported(format!("linux.rootfsPropagation: {other}")));
    }
    if let Some(personality) = linux.personality()
        && personality
            .flags()
            .as_ref()
            .is_some_and(|flags| !flags.is_empty())
    {
        return Err(Failure::unsupported("linux.personality: flags"));
    }
    linux.seccomp().as_ref().map_or(Ok(()), check_seccomp)
}

fn check_seccomp(seccomp: &LinuxSeccomp) -> Result<(), Failure> {
    let notifies = seccomp
        .syscalls()
        .iter()
        .flatten()
        .any(|syscall| syscall.action() == LinuxSeccompAction::ScmpActNotify);
    if notifies || seccomp.listener_path().is_some() {
        return Err(Failure::unsupported(
            "linux.seccomp: a listener of the host cannot serve a guest",
        ));
    }
    Ok(())
}
