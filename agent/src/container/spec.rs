//! Reads a container's spec and sorts it: what the agent does before there is a process is taken out, what a
//! guest does not do is an error. Pure.

use std::collections::HashMap;

use nix::sched::CloneFlags;
use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPersonalityDomain, LinuxResources,
    LinuxSeccomp, Process, Spec,
};

use super::unsupported;
use crate::failure::Failure;

/// Execution domain of 32-bit programs, from the kernel's `personality.h`.
const PER_LINUX32: u64 = 8;

/// A spec, taken apart.
#[derive(Debug)]
pub struct Prepared {
    /// What init does.
    pub spec: Spec,
    /// What the agent applies to the cgroup.
    pub resources: LinuxResources,
    /// Settings of the guest's own network and IPC namespaces, in which every container is that has none of
    /// its own. The agent sets them.
    pub guest_sysctls: Vec<(String, String)>,
    /// Namespaces that further processes join.
    pub namespaces: i32,
    /// The container has a pid namespace of its own: when its init ends, the kernel ends the rest.
    pub private_pids: bool,
    /// The execution domain, also of further processes.
    pub personality: Option<u64>,
    /// A volume shows what the host mounts below it later.
    pub follows_host: bool,
}

impl Prepared {
    /// Init's description.
    ///
    /// # Errors
    /// None after [`prepare`], which has seen it.
    pub fn process(&self) -> Result<&Process, Failure> {
        let process = self.spec.process().as_ref();
        process.ok_or_else(|| Failure::invalid("config.json: process is missing"))
    }

    /// What is Linux's.
    ///
    /// # Errors
    /// None after [`prepare`], which has seen it.
    pub fn linux(&self) -> Result<&Linux, Failure> {
        let linux = self.spec.linux().as_ref();
        linux.ok_or_else(|| Failure::invalid("config.json: linux is missing"))
    }

    /// The filter, also of further processes.
    pub fn seccomp(&self) -> Option<&LinuxSeccomp> {
        self.spec.linux().as_ref()?.seccomp().as_ref()
    }
}

/// Parses and prepares a container's `config.json`.
///
/// # Errors
/// `InvalidArgument` or `Unsupported`, naming the field.
pub fn prepare(json: &[u8], terminal: bool) -> Result<Prepared, Failure> {
    let mut spec: Spec =
        serde_json::from_slice(json).map_err(|error| Failure::invalid(format!("config.json: {error}")))?;
    let process = spec
        .process_mut()
        .as_mut()
        .ok_or_else(|| Failure::invalid("config.json: process is missing"))?;
    prepare_process(process, terminal)?;
    unsupported::check(&spec)?;
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or_else(|| Failure::invalid("config.json: linux is missing"))?;
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
    let resources = linux.resources_mut().take().unwrap_or_default();
    let mut options = spec
        .mounts()
        .iter()
        .flatten()
        .flat_map(|mount| mount.options().iter().flatten());
    let follows_host = options.any(|option| option == "slave" || option == "rslave");
    Ok(Prepared {
        spec,
        resources,
        guest_sysctls,
        namespaces: flags,
        private_pids,
        personality,
        follows_host,
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

/// Parses the filter of an exec, which `prepare` has seen as part of its container.
///
/// # Errors
/// `InvalidArgument`.
pub fn seccomp(json: &[u8]) -> Result<LinuxSeccomp, Failure> {
    serde_json::from_slice(json).map_err(|error| Failure::invalid(format!("linux.seccomp: {error}")))
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

/// The `CLONE_NEW*` flag of a kind of namespace.
pub fn clone_flag(typ: LinuxNamespaceType) -> i32 {
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
    use std::path::Path;

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
        prepare(SPEC.replace(from, to).as_bytes(), false)
    }

    #[test]
    fn what_the_agent_does_is_taken_out() {
        let prepared = prepare(SPEC.as_bytes(), true).unwrap();
        let linux = prepared.spec.linux().as_ref().unwrap();
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
            let prepared =
                prepare(&json, false).unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            super::super::resources::settings(&prepared.resources)
                .unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            super::super::devices::filter(prepared.resources.devices().as_deref().unwrap_or_default())
                .unwrap_or_else(|failure| panic!("{}: {failure}", bundle.display()));
            taken += 1;
        }
        assert!(taken > 50, "only {taken} specs were found");
    }
}
