//! One attempt to start the VM: its processes, and its agent's first words.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bulkhead_agent_protocol::message::Hello;
use tokio::net::UnixStream;

use super::machine::{Machine, Processes};
use super::{ErrorKind, SandboxError, SandboxRequest, deadlines};
use crate::agent::{AgentClient, AgentError};
use crate::fs_server::{self, FsServer, FsServerSpec};
use crate::vmm::{Accelerator, Start, VmInstance, VmShape, VmSpec, Vmm};

/// Of the console, where a guest does not come up.
const QUOTED_LINES: usize = 20;

/// What every attempt has in common.
pub(super) struct Plan<'a> {
    pub request: &'a SandboxRequest,
    pub vmm: &'a dyn Vmm,
    pub accelerator: Accelerator,
}

/// How long the processes of one attempt took.
pub(super) struct Started {
    /// From the file-sharing server's exec until it was jailed; at the same time as `vmm`.
    pub fs_server: Duration,
    /// Until the VMM ran, and a restored guest with it.
    pub vmm: Duration,
}

impl Plan<'_> {
    /// What VMs of this size have in common.
    pub fn shape(&self) -> VmShape {
        let SandboxRequest { config, sizing, .. } = self.request;
        VmShape {
            vcpus: sizing.vcpus,
            memory_mib: sizing.memory_mib,
            accelerator: self.accelerator,
            kernel: config.kernel_for(self.accelerator),
            initramfs: config.initramfs.clone(),
        }
    }

    /// Starts the processes. They belong to `attempt` as soon as they exist, and are in the state file.
    ///
    /// # Errors
    /// Which could not be started, and why.
    pub async fn start(
        &self,
        machine: &Machine,
        attempt: &Processes,
        start: Start,
        tap: OwnedFd,
    ) -> Result<Started, SandboxError> {
        let (host, config) = (&machine.host, &self.request.config);
        let lock = || {
            host.lock()
                .map_err(|error| SandboxError::new(ErrorKind::Internal, error.to_string()))
        };
        let FsServer {
            process: mut server,
            socket,
        } = fs_server::spawn(FsServerSpec {
            program: config.helper(fs_server::PROGRAM),
            directory: host.share.path().to_owned(),
            socket_directory: host.directory.clone(),
            placement: host.placement.clone(),
            lock: lock()?,
            stderr: None,
        })?;
        let spec = VmSpec {
            shape: self.shape(),
            start,
            tap: Some(tap),
            share: Some(socket),
            placement: host.placement.clone(),
            console_log: host.directory.join("console.log"),
            lock: lock()?,
        };
        // The monitor waits for the server, in its turn.
        let (ready, instance) =
            tokio::join!(timed(fs_server::ready(&mut server)), timed(self.vmm.launch(spec)));
        let started = Started {
            fs_server: ready.1,
            vmm: instance.1,
        };
        let identity = server.identity();
        // Set once: this is the only caller. And before anything can fail, so that both are ended then.
        attempt.fs_server.set(server).ok();
        let identities = match instance.0 {
            Ok(instance) => {
                let identities = instance.processes();
                attempt.vm.set(instance).ok();
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
        Ok(started)
    }
}

/// The VM of an attempt that has started it.
///
/// # Errors
/// It has not.
pub(super) fn vm(attempt: &Processes) -> Result<&VmInstance, SandboxError> {
    attempt.vm.get().ok_or_else(not_started)
}

/// The stream to its agent, once.
///
/// # Errors
/// Somebody has it.
pub(super) fn agent(vm: &VmInstance) -> Result<UnixStream, SandboxError> {
    vm.take_agent().ok_or_else(not_started)
}

fn not_started() -> SandboxError {
    SandboxError::new(ErrorKind::Internal, "the VM has not been started")
}

/// Waits for the agent's HELLO.
///
/// # Errors
/// The VM died, with its last words, or stays silent.
pub(super) async fn hello(
    vm: &VmInstance,
    agent: &AgentClient,
    deadline: Duration,
) -> Result<Hello, SandboxError> {
    tokio::select! {
        // Both may be true at once; the VM's death explains the silence.
        biased;
        death = vm.died() => Err(SandboxError::new(ErrorKind::Unavailable, format!("the VM did not boot: {death}"))),
        hello = agent.hello(deadline) => match hello {
            Ok(hello) => Ok(hello),
            Err(error) => Err(silence(vm, error).await),
        },
    }
}

/// Why there was no HELLO: a VM that lost its agent usually dies of it, with better words.
async fn silence(vm: &VmInstance, error: AgentError) -> SandboxError {
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

/// Runs `work` and tells how long it took.
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    (work.await, begun.elapsed())
}
