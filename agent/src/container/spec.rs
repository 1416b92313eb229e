//! Reads a container's spec and prepares it for the library: what the library does not do, the agent
//! takes out and does itself; what neither does is an error. Pure.

use std::collections::HashMap;
use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::{
    Capabilities, LinuxCapabilities, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPersonalityDomain, LinuxResources, LinuxSeccomp, LinuxSeccompAction, Process, Spec,
};

use crate::failure::Failure;

/// Execution domain of 32-bit programs, from the kernel's `personality.h`.
const PER_LINUX32: u64 = 8;

/// A spec, taken apart.
#[derive(Debug)]
pub struct Prepared {
    /// What the library is given.
    pub spec: Spec,
    /// What the agent applies to the cgroup.
    pub resources: LinuxResources,
    /// Settings of the guest's own network and IPC namespaces, in which every container is that has none of
    /// its own. The library refuses them there.
    pub guest_sysctls: Vec<(String, String)>,
    /// Namespaces that further processes join.
    pub namespaces: i32,
    /// The container has a pid namespace of its own: when its init ends, the kernel ends the rest.
    pub private_pids: bool,
    /// The filter, for further processes.
    pub seccomp: Option<LinuxSeccomp>,
    /// The execution domain, for further processes.
    pub personality: Option<u64>,
}

/// Parses and prepares the `config.json` of a container whose cgroup is `cgroup`.
///
/// # Errors
/// `InvalidArgument` or `Unsupported`, naming the field.
pub fn prepare(json: &[u8], cgroup: &Path, terminal: bool) -> Result<Prepared, Failure> {
    let mut spec: Spec =
        serde_json::from_slice(json).map_err(|error| Failure::invalid(format!("config.json: {error}")))?;
    let process = spec
        .process_mut()
        .as_mut()
        .ok_or_else(|| Failure::invalid("config.json: process is missing"))?;
    prepare_process(process, terminal)?;
    check_hooks(&spec)?;
    check_mounts(&spec)?;
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| Failure::invalid("config.json: linux is missing"))?;
    if linux.intel_rdt().is_some() || linux.net_devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(Failure::unsupported(
            "linux.intelRdt and linux.netDevices: a guest has neither",
        ));
    }
    if let Some(seccomp) = linux.seccomp() {
        check_seccomp(seccomp)?;
    }
    let namespaces = linux.namespaces_mut().get_or_insert_default();
    for needed in [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup] {
        // Without them a container would work on the agent's mounts, or see the agent's cgroup.
        if !namespaces.iter().any(|namespace| namespace.typ() == needed) {
            namespaces.push(private(needed)?);
        }
    }
    let flags = namespaces
        .iter()
        .fold(0, |flags, namespace| flags | clone_flag(namespace.typ()));
    let private_pids = namespaces
        .iter()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none());
    let shared = |typ| !namespaces.iter().any(|namespace| namespace.typ() == typ);
    let (network, ipc) = (
        shared(LinuxNamespaceType::Network),
        shared(LinuxNamespaceType::Ipc),
    );
    let guest_sysctls = match linux.sysctl_mut() {
        Some(sysctls) => take_sysctls(sysctls, |name| {
            network && name.starts_with("net.") || ipc && is_ipc_sysctl(name)
        })?,
        None => Vec::new(),
    };
    let personality = linux
        .personality()
        .as_ref()
        .map(|personality| match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
        });
    let seccomp = linux.seccomp().clone();
    let resources = linux.resources_mut().take().unwrap_or_default();
    linux.set_cgroups_path(Some(cgroup.to_owned()));
    Ok(Prepared {
        spec,
        resources,
        guest_sysctls,
        namespaces: flags,
        private_pids,
        seccomp,
        personality,
    })
}

/// Parses and prepares the process of an exec.
///
/// # Errors
/// `InvalidArgument` or `Unsupported`, naming the field.
pub fn exec_process(json: &[u8], terminal: bool) -> Result<Process, Failure> {
    let mut process: Process =
        serde_json::from_slice(json).map_err(|error| Failure::invalid(format!("process: {error}")))?;
    prepare_process(&mut process, terminal)?;
    if process.scheduler().is_some()
        || process.io_priority().is_some()
        || process.exec_cpu_affinity().is_some()
    {
        return Err(Failure::unsupported(
            "process: scheduler, ioPriority and execCPUAffinity of an exec are not supported",
        ));
    }
    Ok(process)
}

fn prepare_process(process: &mut Process, terminal: bool) -> Result<(), Failure> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Failure::invalid("process.args is empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Failure::invalid(format!(
            "process.cwd {:?} is not absolute",
            process.cwd()
        )));
    }
    for entry in process.env().iter().flatten() {
        if entry.find('=').is_none_or(|at| at == 0) {
            return Err(Failure::invalid(format!(
                "process.env: {entry:?} is not NAME=VALUE"
            )));
        }
    }
    for limit in process.rlimits().iter().flatten() {
        if limit.soft() > limit.hard() {
            let (typ, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            return Err(Failure::invalid(format!(
                "process.rlimits: {typ:?} soft {soft} exceeds hard {hard}"
            )));
        }
    }
    let labels = [
        ("apparmorProfile", process.apparmor_profile()),
        ("selinuxLabel", process.selinux_label()),
    ];
    for (name, label) in labels {
        if label.as_ref().is_some_and(|label| !label.is_empty()) {
            return Err(Failure::unsupported(format!(
                "process.{name}: the guest's kernel has no such module"
            )));
        }
    }
    if process.user().umask().is_some_and(|umask| umask > 0o777) {
        return Err(Failure::invalid("process.user.umask is more than 0777"));
    }
    process.set_terminal(Some(terminal));
    // The library takes "false" for a wish to set the filter last, which then needs privileges that are
    // gone by then; absent it does what false means.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    let capabilities = explicit(process.capabilities().as_ref());
    process.set_capabilities(Some(capabilities));
    Ok(())
}

/// Absent sets are empty sets. The library would leave them full, and its types' default is not empty.
fn explicit(capabilities: Option<&LinuxCapabilities>) -> LinuxCapabilities {
    let of = |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
        Some(
            capabilities
                .and_then(|sets| set(sets).clone())
                .unwrap_or_default(),
        )
    };
    let mut explicit = LinuxCapabilities::default();
    explicit
        .set_bounding(of(LinuxCapabilities::bounding))
        .set_effective(of(LinuxCapabilities::effective))
        .set_inheritable(of(LinuxCapabilities::inheritable))
        .set_permitted(of(LinuxCapabilities::permitted))
        .set_ambient(of(LinuxCapabilities::ambient));
    explicit
}

/// Hooks of the host were run there and are not in a guest's spec.
fn check_hooks(spec: &Spec) -> Result<(), Failure> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    #[allow(deprecated, reason = "prestart is deprecated, and its use is what is refused")]
    let of_host = [
        hooks.prestart(),
        hooks.create_runtime(),
        hooks.poststart(),
        hooks.poststop(),
    ];
    if of_host.into_iter().flatten().any(|hooks| !hooks.is_empty()) {
        return Err(Failure::unsupported(
            "hooks: only createContainer and startContainer run in a guest",
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

/// Takes out the settings whose dotted names are `wanted`.
fn take_sysctls(
    sysctls: &mut HashMap<String, String>,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, String)>, Failure> {
    let mut taken = Vec::new();
    for (name, value) in std::mem::take(sysctls) {
        let dotted = name.replace('/', ".");
        if dotted.split('.').any(str::is_empty) {
            return Err(Failure::invalid(format!("linux.sysctl: {name:?}")));
        }
        if wanted(&dotted) {
            taken.push((name, value));
        } else {
            sysctls.insert(name, value);
        }
    }
    Ok(taken)
}

/// Belongs to an IPC namespace.
fn is_ipc_sysctl(name: &str) -> bool {
    ["kernel.msg", "kernel.shm", "kernel.sem", "fs.mqueue."]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn private(typ: LinuxNamespaceType) -> Result<LinuxNamespace, Failure> {
    LinuxNamespaceBuilder::default()
        .typ(typ)
        .build()
        .map_err(|error| Failure::invalid(format!("linux.namespaces: {error}")))
}

fn clone_flag(typ: LinuxNamespaceType) -> i32 {
    /// `CLONE_NEWTIME`, which nix does not know.
    const NEW_TIME: i32 = 0x80;
    match typ {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS.bits(),
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP.bits(),
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS.bits(),
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC.bits(),
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER.bits(),
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID.bits(),
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET.bits(),
        LinuxNamespaceType::Time => NEW_TIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_agent_protocol::message::FailureKind;

    const SPEC: &str = r#"{
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": ["A=b"],
                    "noNewPrivileges": false},
        "root": {"path": "/run/share/c/rootfs"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}],
                  "resources": {"pids": {"limit": 3}},
                  "sysctl": {"net.ipv4.ip_forward": "1", "kernel.msgmax": "1"}}
    }"#;

    fn with(from: &str, to: &str) -> Result<Prepared, Failure> {
        assert!(SPEC.contains(from));
        prepare(
            SPEC.replace(from, to).as_bytes(),
            Path::new("/containers/c"),
            false,
        )
    }

    #[test]
    fn what_the_agent_does_is_taken_out() {
        let prepared = prepare(SPEC.as_bytes(), Path::new("/containers/c"), true).unwrap();
        let linux = prepared.spec.linux().as_ref().unwrap();
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/containers/c")));
        assert_eq!(linux.resources(), &None);
        assert_eq!(prepared.resources.pids().unwrap().limit(), 3);
        let mut names: Vec<&str> = prepared
            .guest_sysctls
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        names.sort_unstable();
        assert_eq!(names, ["kernel.msgmax", "net.ipv4.ip_forward"]);
        assert_eq!(linux.sysctl().as_ref().unwrap().len(), 0);
        assert!(prepared.private_pids);
        assert_eq!(prepared.spec.process().as_ref().unwrap().terminal(), Some(true));
    }

    #[test]
    fn a_container_always_has_its_own_mounts_and_cgroup_view() {
        let prepared = with(r#"[{"type": "pid"}, {"type": "mount"}]"#, "[]").unwrap();
        let expected = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
        assert_eq!(prepared.namespaces, expected.bits());
        assert!(!prepared.private_pids);
    }

    #[test]
    fn absent_capabilities_are_none() {
        let prepared = prepare(SPEC.as_bytes(), Path::new("/c"), false).unwrap();
        let process = prepared.spec.process().clone().unwrap();
        let capabilities = process.capabilities().clone().unwrap();
        assert_eq!(capabilities.bounding(), &Some(Capabilities::new()));
        assert_eq!(capabilities.effective(), &Some(Capabilities::new()));
        assert_eq!(process.no_new_privileges(), None);
    }

    #[test]
    fn nothing_is_dropped_silently() {
        let cases = [
            (r#""A=b""#, r#""no-equals-sign""#),
            (r#""A=b""#, r#""=x""#),
            (r#"["sh"]"#, "[]"),
            (r#""cwd": "/""#, r#""cwd": "tmp""#),
            (
                r#""env""#,
                r#""rlimits": [{"type": "RLIMIT_BOGUS", "soft": 1, "hard": 1}], "env""#,
            ),
            (
                r#""env""#,
                r#""rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "env""#,
            ),
        ];
        for (from, to) in cases {
            assert_eq!(
                with(from, to).unwrap_err().kind(),
                FailureKind::InvalidArgument,
                "{to}"
            );
        }
        let shared = r#""mounts": [{"destination": "/x", "source": "/y", "options": ["rshared"]}], "root""#;
        assert_eq!(
            with(r#""root""#, shared).unwrap_err().kind(),
            FailureKind::Unsupported
        );
        let hooks = r#""hooks": {"poststop": [{"path": "/x"}]}, "root""#;
        assert_eq!(
            with(r#""root""#, hooks).unwrap_err().kind(),
            FailureKind::Unsupported
        );
    }

    #[test]
    fn an_exec_is_held_to_the_same_rules() {
        let process = r#"{"user": {"uid": 1, "gid": 2}, "args": ["id"], "cwd": "/"}"#;
        assert_eq!(
            exec_process(process.as_bytes(), true).unwrap().terminal(),
            Some(true)
        );
        assert!(exec_process(br#"{"cwd": "/"}"#, false).is_err());
        assert!(exec_process(b"not json", false).is_err());
    }

    #[test]
    fn every_spec_that_the_host_plans_is_one_that_the_agent_takes() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oci/tests/golden");
        let paths = bulkhead_oci::GuestPaths {
            container: "/run/share/id".into(),
        };
        let mut taken = 0;
        for bundle in std::fs::read_dir(golden).unwrap() {
            let bundle = bundle.unwrap().path();
            let Ok(spec) = bulkhead_oci::read_spec(&bundle.join("config.json")) else {
                continue;
            };
            let Ok(plan) = bulkhead_oci::plan(&spec, &bundle, "id", &paths) else {
                continue;
            };
            let json = serde_json::to_vec(&plan.guest).unwrap();
            let prepared = prepare(&json, Path::new("/containers/id"), false)
                .unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            super::super::resources::settings(&prepared.resources)
                .unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            super::super::devices::program(prepared.resources.devices().as_deref().unwrap_or_default())
                .unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            taken += 1;
        }
        assert!(taken > 50, "only {taken} specs were found");
    }
}
