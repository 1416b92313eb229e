//! CreateContainer: everything but the exec of its program.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_agent_protocol::message::{CreateContainer, FailureKind, Stdio};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::cgroup::Cgroup;
use super::process::Process;
use super::spec::{Prepared, prepare};
use super::{Container, State, Surroundings, devices, resources};
use crate::agent::Agent;
use crate::failure::Failure;
use crate::lock;
use crate::stdio::Streams;
use crate::zygote::Spawned;
use crate::zygote::job::{CreateJob, Job};

/// What a failed creation leaves behind for [`discard`].
#[derive(Default)]
struct Made {
    cgroup: Option<Cgroup>,
    bundle: Option<PathBuf>,
}

/// Creates a container. The caller must send its reply before it drops what is returned.
///
/// # Errors
/// Typed; nothing is left of the container.
pub async fn create(agent: &Arc<Agent>, request: CreateContainer) -> Result<Spawned, Failure> {
    let id = request.container_id.as_str();
    lock(&agent.registry).reserve(id)?;
    let mut made = Made::default();
    let outcome = build(agent, &request, &mut made).await;
    match outcome {
        Ok((container, spawned)) => {
            lock(&agent.registry).fill(id, container);
            Ok(spawned)
        }
        Err(failure) => {
            discard(made).await;
            lock(&agent.registry).release(id);
            Err(failure)
        }
    }
}

async fn build(
    agent: &Arc<Agent>,
    request: &CreateContainer,
    made: &mut Made,
) -> Result<(Container, Spawned), Failure> {
    let id = request.container_id.as_str();
    let stdio = request.stdio.clone().unwrap_or_default();
    let path = agent.layout.cgroup_of(id);
    let prepared = prepare(&request.spec, &path, stdio.terminal)?;
    check_root(&prepared)?;
    let settings = resources::settings(&prepared.resources)?;
    let filter = devices::program(prepared.resources.devices().as_deref().unwrap_or_default())?;

    let cgroup = Cgroup::create(&agent.layout.cgroups, path)?;
    made.cgroup = Some(cgroup.clone());
    cgroup.apply(&settings)?;
    cgroup.filter_devices(&filter)?;
    agent.oom.add(id, &cgroup)?;
    for (name, value) in &prepared.guest_sysctls {
        set_sysctl(name, value)?;
    }
    let bundle = agent.layout.bundles.join(id);
    made.bundle = Some(bundle.clone());
    write_bundle(&bundle, &prepared)?;

    let (start_report, spawned, process) = spawn(agent, id, &bundle, &prepared, &stdio).await?;
    let container = Container {
        state: State::Created,
        init: process,
        execs: std::collections::BTreeMap::new(),
        cgroup,
        bundle,
        start_report: Some(start_report),
        surroundings: Surroundings {
            namespaces: prepared.namespaces,
            private_pids: prepared.private_pids,
            seccomp: prepared.seccomp,
            personality: prepared.personality,
        },
        oom_kills: 0,
        last_stats: None,
    };
    Ok((container, spawned))
}

/// Has the zygote make init, and connects its streams.
async fn spawn(
    agent: &Arc<Agent>,
    id: &str,
    bundle: &Path,
    prepared: &Prepared,
    stdio: &Stdio,
) -> Result<(OwnedFd, Spawned, Process), Failure> {
    let process = prepared.spec.process().as_ref();
    let uid = process.map_or(0, |process| process.user().uid());
    let (streams, ends) = Streams::open(&agent.link(), stdio, uid)?;
    let (start_report, theirs) = pipe2(OFlag::O_CLOEXEC)
        .map_err(|errno| Failure::os(FailureKind::Other, "make report pipe", &errno))?;
    let mut fds = vec![theirs.as_fd()];
    fds.extend(ends.iter().map(AsFd::as_fd));
    let job = Job::Create(CreateJob {
        container_id: id.to_owned(),
        bundle: bundle.to_owned(),
        terminal: stdio.terminal,
    });
    let mut spawned = agent.zygote.run(&job, &fds).await?;
    drop((theirs, ends));
    let master = spawned.terminal.take().map(Arc::new);
    let size = process.and_then(|process| process.console_size());
    let relays = streams.start(master.as_ref())?;
    let generation = lock(&agent.registry).next_generation();
    let process = Process::new(spawned.pid, generation, master, relays);
    process.give_terminal_to(uid)?;
    if let Some(size) = size {
        process.resize(size.width() as u32, size.height() as u32)?;
    }
    Ok((start_report, spawned, process))
}

/// What would otherwise fail deep in the library, or be done outside of the root: the library makes
/// devices below `ROOT/dev` and would follow a link there.
fn check_root(prepared: &Prepared) -> Result<(), Failure> {
    let root = prepared
        .spec
        .root()
        .as_ref()
        .map(|root| root.path().clone())
        .unwrap_or_default();
    let failed = |error| {
        Failure::os(
            FailureKind::Mount,
            format!("open the container's root {}", root.display()),
            &error,
        )
    };
    if !root.is_absolute() {
        return Err(Failure::invalid(format!("root.path {root:?} is not absolute")));
    }
    if !fs::metadata(&root).map_err(failed)?.is_dir() {
        return Err(failed(nix::errno::Errno::ENOTDIR.into()));
    }
    for name in ["dev", "proc", "sys"] {
        let link = fs::symlink_metadata(root.join(name)).is_ok_and(|entry| entry.is_symlink());
        if link {
            let message = format!("/{name} of the container's root is a symbolic link");
            return Err(Failure::new(FailureKind::Mount, "check root", message));
        }
    }
    Ok(())
}

fn write_bundle(bundle: &Path, prepared: &Prepared) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::os(
            FailureKind::Other,
            format!("write the spec to {}", bundle.display()),
            &error,
        )
    };
    fs::create_dir(bundle).map_err(failed)?;
    let json = serde_json::to_vec(&prepared.spec)
        .map_err(|error| Failure::invalid(format!("config.json: {error}")))?;
    fs::write(bundle.join("config.json"), json).map_err(failed)
}

fn set_sysctl(name: &str, value: &str) -> Result<(), Failure> {
    // With slashes, dots belong to names (of VLAN interfaces); without, they separate.
    let below = if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    };
    let path = Path::new("/proc/sys").join(below);
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| {
            Failure::os(
                FailureKind::Other,
                format!("set sysctl {name} to {value:?}"),
                &error,
            )
        })
}

/// Removes what a failed creation has made. What cannot be removed stays until the VM ends, which is
/// soon: its failure is the one to report, not this.
async fn discard(made: Made) {
    if let Some(cgroup) = made.cgroup {
        let _ = cgroup.remove().await;
    }
    if let Some(bundle) = made.bundle {
        let _ = fs::remove_dir_all(bundle);
    }
}
