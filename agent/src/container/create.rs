//! CreateContainer: everything but the exec of its program.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use bulkhead_agent_protocol::message::{CreateContainer, FailureKind, Stdio};

use nix::sched::CloneFlags;

use super::cgroup::Cgroup;
use super::process::Process;
use super::spec::prepare;
use super::{Container, State, Surroundings, devices, resources};
use crate::agent::Agent;
use crate::disks::Device;
use crate::failure::Failure;
use crate::lock;
use crate::stdio::Streams;
use crate::sys;
use crate::zygote::job::{CreateJob, DeviceNumber, Work};
use crate::zygote::namespaces::set_sysctl;
use crate::zygote::spare::{self, Spare};
use crate::zygote::{Spawned, gate};

/// Creates a container. The caller must send its reply before it drops what is returned.
///
/// # Errors
/// Typed; nothing is left of the container.
pub async fn create(agent: &Arc<Agent>, request: CreateContainer) -> Result<Spawned, Failure> {
    let id = request.container_id.clone();
    lock(&agent.registry).reserve(&id)?;
    let mut made = None;
    match build(agent, request, &mut made).await {
        Ok((container, spawned)) => {
            lock(&agent.registry).fill(&id, container);
            Ok(spawned)
        }
        Err(failure) => {
            if let Some(cgroup) = made {
                // What cannot be removed stays until the VM ends, which is soon: `failure` is the one to
                // report, not this.
                let _ = cgroup.remove().await;
            }
            if let Err(failure) = agent.disks.detach(&id).await {
                eprintln!("bulkhead-agent: {failure}");
            }
            // Whoever tries again under this name has a root of its own there.
            agent.forget_shared_files().await;
            lock(&agent.registry).release(&id);
            Err(failure)
        }
    }
}

async fn build(
    agent: &Arc<Agent>,
    request: CreateContainer,
    made: &mut Option<Cgroup>,
) -> Result<(Container, Spawned), Failure> {
    let id = request.container_id.as_str();
    let stdio = request.stdio.clone().unwrap_or_default();
    let prepared = prepare(&request.spec, stdio.terminal)?;
    let given = agent.disks.attach(&request).await?;
    let root = given.root.map(|root| root.to_string_lossy().into_owned());
    let settings = resources::settings(&prepared.resources)?;
    let disk_rules: Vec<_> = given.devices.iter().map(devices::rule_for).collect();
    let mut rules = prepared.resources.devices().clone().unwrap_or_default();
    rules.extend_from_slice(&disk_rules);
    let filter = devices::filter(&rules)?;

    let seccomp = prepared.seccomp().map(serde_json::to_vec).transpose();
    let seccomp = seccomp.map_err(|error| Failure::invalid(format!("linux.seccomp: {error}")))?;

    let joins = request.pid_namespace_of.is_some() || root.is_some();
    let spare = if !joins && Spare::fits(&prepared)? {
        lock(&agent.spare).take()
    } else {
        None
    };
    let cgroup = match &spare {
        Some(spare) => spare.cgroup.clone(),
        None => Cgroup::create(&agent.layout.cgroups, agent.layout.cgroup_of(id))?,
    };
    *made = Some(cgroup.clone());
    cgroup.apply(&settings)?;
    if let devices::Filter::Own(program) = filter {
        cgroup.filter_devices(&program)?;
    }
    match &spare {
        Some(_) => agent.oom.rename(spare::NAME, id),
        None => agent.oom.add(id, &cgroup)?,
    }
    for (name, value) in &prepared.guest_sysctls {
        set_sysctl(name, value)?;
    }
    let pids = request.pid_namespace_of.as_deref();
    let pids = pids.map(|other| member_of(agent, other)).transpose()?;
    let joined = pids.as_ref().map_or(0, |_| CloneFlags::CLONE_NEWPID.bits());
    let job = CreateJob {
        spec: request.spec,
        terminal: stdio.terminal,
        root,
        joins_pids: pids.is_some(),
        hook_state: request.hook_state,
        hostname: match &spare {
            Some(_) => hostname()?,
            None => String::new(),
        },
        numbers: given.devices.into_iter().map(DeviceNumber::from).collect(),
    };
    let uid = prepared.process()?.user().uid();
    let (gate, spawned, process) = spawn(agent, &stdio, uid, &cgroup, pids, spare, job).await?;
    let container = Container {
        state: State::Created,
        init: process,
        execs: std::collections::BTreeMap::new(),
        cgroup,
        gate: Some(gate),
        disk_rules,
        surroundings: Surroundings {
            namespaces: prepared.namespaces | joined,
            private_pids: prepared.private_pids,
            seccomp,
            personality: prepared.personality,
            follows_host: prepared.follows_host,
        },
        oom_kills: 0,
        last_stats: None,
    };
    Ok((container, spawned))
}

impl From<Device> for DeviceNumber {
    fn from(device: Device) -> Self {
        let Device {
            path, major, minor, ..
        } = device;
        Self { path, major, minor }
    }
}

/// A pidfd of container `id`'s init, by which another joins its PID namespace.
fn member_of(agent: &Agent, id: &str) -> Result<OwnedFd, Failure> {
    let mut registry = lock(&agent.registry);
    let other = registry.get(id)?;
    if other.state == State::Stopped {
        let gone = format!("container {id} has ended, and its PID namespace with it");
        return Err(Failure::state(gone));
    }
    // Its pid is nobody else's while we hold the lock: reaping takes it.
    sys::pidfd_open(other.init.pid)
        .map_err(|errno| Failure::os(FailureKind::Other, format!("open the init of {id}"), &errno))
}

/// The guest's name.
fn hostname() -> Result<String, Failure> {
    let name = nix::unistd::gethostname()
        .map_err(|errno| Failure::os(FailureKind::Other, "read the host name", &errno))?;
    Ok(name.to_string_lossy().into_owned())
}

/// Has the zygote make init, or the spare one become it, and connects its streams.
async fn spawn(
    agent: &Arc<Agent>,
    stdio: &Stdio,
    uid: u32,
    cgroup: &Cgroup,
    pids: Option<OwnedFd>,
    spare: Option<Spare>,
    job: CreateJob,
) -> Result<(OwnedFd, Spawned, Process), Failure> {
    let (streams, ends) = Streams::open(&agent.link(), stdio, uid)?;
    let ends_fds = ends.iter().map(AsFd::as_fd);
    let (gate, spawned) = if let Some(spare) = spare {
        let fds: Vec<_> = ends_fds.collect();
        spare.become_init(job, &fds).await?
    } else {
        let (gate, inits) =
            gate::new().map_err(|errno| Failure::os(FailureKind::Other, "make the start gate", &errno))?;
        let directory = cgroup.open()?;
        let mut fds = vec![directory.as_fd(), inits.as_fd()];
        fds.extend(pids.iter().map(AsFd::as_fd));
        fds.extend(ends_fds);
        (gate, agent.zygote.run(Work::Create(job), &fds).await?)
    };
    drop(ends);
    let (process, spawned) = Process::connect(agent, streams, spawned)?;
    Ok((gate, spawned, process))
}
