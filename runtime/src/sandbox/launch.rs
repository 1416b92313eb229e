//! From nothing to a VM whose agent is configured.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::message::{Body, ConfigureSandbox};
use tokio::sync::mpsc;

use super::host::Host;
use super::machine::{Machine, Owner};
use super::turn::Turn;
use super::{ErrorKind, SandboxError, SandboxRequest, Timings, deadlines};
use crate::agent::{AgentClient, AgentError, AgentEvent};
use crate::fs_server::{self, FsServer, FsServerSpec};
use crate::kvm;
use crate::state::Phase;
use crate::vmm::{Accelerator, VmSpec, Vmm};

/// Program that serves the share.
const FS_SERVER: &str = "bulkhead-fs";
/// The kernel's pool takes 32 bytes to be seeded; twice that costs nothing.
const ENTROPY_BYTES: usize = 64;
/// A host name has at most 64 bytes in Linux.
const MAX_HOSTNAME: usize = 64;

/// Of the console, where a guest does not come up.
const QUOTED_LINES: usize = 20;

/// A launched VM, configured.
pub(super) struct Launched {
    pub owner: Owner,
    pub agent: AgentClient,
    pub events: mpsc::Receiver<AgentEvent>,
    pub timings: Timings,
}

/// Launches. Dropping the future ends what has been started.
pub(super) async fn launch(request: &SandboxRequest, vmm: &dyn Vmm) -> Result<Launched, SandboxError> {
    let begun = Instant::now();
    let (accelerator, prepared) = tokio::join!(kvm::choose(&request.config), prepare(request));
    let (host, tap) = prepared?;
    let owner = Owner::new(host);
    let host_ready = begun.elapsed();
    let rise = async {
        let accelerator =
            accelerator.map_err(|error| SandboxError::doing(ErrorKind::FailedPrecondition, "KVM", &error))?;
        // Over once the agent has answered: what follows is waiting.
        let (_turn, waited) = timed(Turn::wait(&request.config.state_dir)).await;
        let mut timings = start(request, vmm, owner.machine(), accelerator, tap).await?;
        timings.turn = waited;
        let (agent, events) = meet(request, owner.machine(), &mut timings).await?;
        Ok((agent, events, timings))
    };
    match rise.await {
        Ok((agent, events, mut timings)) => {
            timings.host = host_ready;
            timings.total = begun.elapsed();
            Ok(Launched {
                owner,
                agent,
                events,
                timings,
            })
        }
        Err(error) => {
            // Everything is gone by the time the caller hears of the failure, whose cause goes first.
            if let Err(cleanup) = owner.machine().end().await {
                tracing::warn!("clean-up after a failed launch: {cleanup}");
            }
            Err(error)
        }
    }
}

async fn prepare(request: &SandboxRequest) -> Result<(Host, std::os::fd::OwnedFd), SandboxError> {
    let request = request.clone();
    match tokio::task::spawn_blocking(move || Host::prepare(&request)).await {
        Ok(prepared) => prepared,
        Err(_) => Err(SandboxError::new(
            ErrorKind::Internal,
            "preparing the host panicked",
        )),
    }
}

/// Starts the processes.
async fn start(
    request: &SandboxRequest,
    vmm: &dyn Vmm,
    machine: &Arc<Machine>,
    accelerator: Accelerator,
    tap: std::os::fd::OwnedFd,
) -> Result<Timings, SandboxError> {
    let (host, config) = (&machine.host, &request.config);
    let lock = || {
        host.lock()
            .map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))
    };
    let FsServer {
        process: mut server,
        socket,
    } = fs_server::spawn(FsServerSpec {
        program: config.helper(FS_SERVER),
        directory: host.share.path().to_owned(),
        socket_directory: host.directory.clone(),
        placement: host.placement.clone(),
        lock: lock()?,
        stderr: None,
    })?;
    let spec = VmSpec {
        vcpus: request.sizing.vcpus,
        memory_mib: request.sizing.memory_mib,
        accelerator,
        kernel: config.kernel.clone(),
        initramfs: config.initramfs.clone(),
        tap: Some(tap),
        share: Some(socket),
        placement: host.placement.clone(),
        console_log: host.directory.join("console.log"),
        lock: lock()?,
    };
    // The monitor waits for the server, in its turn.
    let (ready, instance) = tokio::join!(timed(fs_server::ready(&mut server)), timed(vmm.launch(spec)));
    let timings = Timings {
        fs_server: ready.1,
        vmm: instance.1,
        ..Timings::default()
    };
    let identity = server.identity();
    // Set once: this is the only caller. And before anything can fail, so that both are ended then.
    machine.fs_server.set(server).ok();
    let identities = match instance.0 {
        Ok(instance) => {
            let identities = instance.processes();
            machine.vm.set(instance).ok();
            identities
        }
        // A monitor that dies of the server's death has less to say about it.
        Err(error) => return Err(ready.0.map_or_else(Into::into, |()| error.into())),
    };
    ready.0?;
    host.record.update(|state| {
        state.fs_server = Some(identity);
        state.vmm = identities;
    })?;
    Ok(timings)
}

/// Runs `work` and tells how long it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    (work.await, begun.elapsed())
}

/// Waits for the agent and tells it what it is to be.
async fn meet(
    request: &SandboxRequest,
    machine: &Arc<Machine>,
    timings: &mut Timings,
) -> Result<(AgentClient, mpsc::Receiver<AgentEvent>), SandboxError> {
    let started = Instant::now();
    let gone = || SandboxError::new(ErrorKind::Internal, "the VM has not been started");
    let vm = machine.vm.get().ok_or_else(gone)?;
    let stream = vm.take_agent().ok_or_else(gone)?;
    let (agent, events) = AgentClient::connect(stream);
    let deadline = request.config.boot_timeout();
    let hello = tokio::select! {
        // Both may be true at once; the VM's death explains the silence.
        biased;
        death = vm.died() => Err(SandboxError::new(ErrorKind::Unavailable, format!("the VM did not boot: {death}"))),
        hello = agent.hello(deadline) => match hello {
            Ok(hello) => Ok(hello),
            Err(error) => Err(silence(vm, error).await),
        },
    }?;
    let booted = started.elapsed();
    let configuration = ConfigureSandbox {
        hostname: request
            .hostname
            .as_ref()
            .unwrap_or(&request.id)
            .chars()
            .take(MAX_HOSTNAME)
            .collect(),
        unix_time_ns: unix_time_ns(),
        entropy: entropy().map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))?,
    };
    agent
        .order(
            "ConfigureSandbox",
            Body::ConfigureSandbox(configuration),
            deadlines::CONFIGURE,
        )
        .await?;
    machine.host.record.update(|state| state.phase = Phase::Ready)?;
    timings.boot = booted;
    timings.configure = started.elapsed() - booted;
    timings.guest_kernel = Duration::from_nanos(hello.agent_started_ns);
    timings.guest_ready = Duration::from_nanos(hello.ready_ns);
    Ok((agent, events))
}

/// Why there was no HELLO: a VM that lost its agent usually dies of it, with better words.
async fn silence(vm: &crate::vmm::VmInstance, error: AgentError) -> SandboxError {
    if let AgentError::Gone(_) = &error
        && let Ok(death) = tokio::time::timeout(deadlines::AFTER_LINK, vm.died()).await
    {
        return SandboxError::new(ErrorKind::Unavailable, format!("the VM did not boot: {death}"));
    }
    let lines = vm.console().last_lines(QUOTED_LINES);
    let kind = SandboxError::from(error).kind();
    let words = if lines.is_empty() {
        "the console is silent".to_owned()
    } else {
        lines.join(" | ")
    };
    SandboxError::new(
        kind,
        format!("the guest did not come up; its console's last lines: {words}"),
    )
}

/// Nanoseconds since the Unix epoch; a clock before it or after the year 2554 is taken for the epoch.
pub(super) fn unix_time_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

fn entropy() -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; ENTROPY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
