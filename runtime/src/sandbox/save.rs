//! A VM that becomes nobody's: booted, put to sleep, and saved.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bulkhead_agent_protocol::message::{Body, PrepareToBeSaved};
use bulkhead_agent_protocol::wake::{ARE_YOU_ASLEEP, ASLEEP};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{interval, timeout};

use super::launch::prepare;
use super::machine::Owner;
use super::start::{self, Plan};
use super::{ErrorKind, SandboxError, SandboxRequest, deadlines};
use crate::agent::AgentClient;
use crate::kvm;
use crate::vmm::{Start, VmInstance, Vmm};

/// An agent that sleeps answers at once; what it is asked while it falls asleep is lost.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// An agent that has nothing to say for so long sleeps on; nobody waits for this.
const QUIET: Duration = Duration::from_millis(300);

/// Boots a VM as for a sandbox, has its agent sleep, and saves it into `file`, which is open for writing.
/// Everything of it has ended when this returns. Dropping the future leaves nothing behind.
///
/// # Errors
/// What failed; what is in the file is then of no use.
pub(crate) async fn save(request: &SandboxRequest, vmm: &dyn Vmm, file: OwnedFd) -> Result<(), SandboxError> {
    let (accelerator, prepared) = tokio::join!(kvm::choose(&request.config), prepare(request));
    let (host, tap) = prepared?;
    let owner = Owner::new(host);
    let machine = owner.machine();
    let saved = async {
        let accelerator =
            accelerator.map_err(|error| SandboxError::doing(ErrorKind::FailedPrecondition, "KVM", &error))?;
        let plan = Plan {
            request,
            vmm,
            accelerator,
        };
        plan.start(machine, &machine.booted, Start::BootToSave(file), tap)
            .await?;
        let vm = start::vm(&machine.booted)?;
        // Open until the VM is saved: the guest must not see the host leave.
        let _port = put_to_sleep(vm, request.config.boot_timeout()).await?;
        Ok(vm.save(deadlines::SAVE).await?)
    };
    let saved = saved.await;
    // What it says no longer matters once the VM is on disk; that it has ended does.
    let ended = machine.end().await;
    saved.and(ended)
}

/// Has the agent end its link, and waits until it sleeps. Returns the host's end of its port.
async fn put_to_sleep(vm: &VmInstance, boot_timeout: Duration) -> Result<UnixStream, SandboxError> {
    let failed =
        |error: io::Error| SandboxError::new(ErrorKind::Internal, format!("the agent's port: {error}"));
    let stream = start::agent(vm)?.into_std().map_err(failed)?;
    // The link closes its own.
    let copy = stream
        .try_clone()
        .and_then(UnixStream::from_std)
        .map_err(failed)?;
    let (agent, _events) = AgentClient::connect(copy);
    start::hello(vm, &agent, boot_timeout).await?;
    let prepare = Body::PrepareToBeSaved(PrepareToBeSaved {});
    agent.order("PrepareToBeSaved", prepare, deadlines::ORDER).await?;
    agent.close();
    agent.closed().await;
    let stream = UnixStream::from_std(stream).map_err(failed)?;
    match timeout(deadlines::FALL_ASLEEP, until_asleep(stream)).await {
        Ok(stream) => stream.map_err(failed),
        Err(_) => {
            let message = "the agent does not fall asleep";
            Err(SandboxError::new(ErrorKind::DeadlineExceeded, message))
        }
    }
}

async fn until_asleep(mut stream: UnixStream) -> io::Result<UnixStream> {
    let mut ticks = interval(ASK_AGAIN);
    // What is left of the link comes before.
    let mut last = [0; ASLEEP.len()];
    while last != ASLEEP {
        tokio::select! {
            byte = stream.read_u8() => {
                last.rotate_left(1);
                last[ASLEEP.len() - 1] = byte?;
            }
            _ = ticks.tick() => stream.write_all(&ARE_YOU_ASLEEP).await?,
        }
    }
    // It answers each question. What it still had to say would be said by every copy.
    let mut rest = [0; 64];
    while let Ok(read) = timeout(QUIET, stream.read(&mut rest)).await {
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(stream)
}
