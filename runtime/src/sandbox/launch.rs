//! From nothing to a VM whose agent is configured: restored from a template where there is one, else booted.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead_agent_protocol::message::{Body, ConfigureSandbox};
use bulkhead_agent_protocol::wake::{ENTROPY, Wake};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::host::Host;
use super::machine::{Machine, Owner, Processes};
use super::start::{self, Plan, timed};
use super::turn::{Turn, Work};
use super::{ErrorKind, Origin, SandboxError, SandboxRequest, Timings, deadlines};
use crate::agent::{AgentClient, AgentEvent};
use crate::counters::{self, Event};
use crate::kvm;
use crate::state::Phase;
use crate::template::{self, Answer};
use crate::vmm::{Start, VmInstance, Vmm};

/// A host name has at most 64 bytes in Linux.
const MAX_HOSTNAME: usize = 64;

/// A launched VM, configured.
pub(super) struct Launched {
    pub owner: Owner,
    pub agent: AgentClient,
    pub events: mpsc::Receiver<AgentEvent>,
    pub timings: Timings,
}

/// A VM whose agent has been configured.
struct Up {
    agent: AgentClient,
    events: mpsc::Receiver<AgentEvent>,
    timings: Timings,
}

/// Launches, unless `stop` is ready first. With an error everything has been ended and given back when this returns;
/// dropping the future has it done in the background, which a process that exits does not wait for.
pub(super) async fn launch(
    request: &SandboxRequest,
    vmm: &dyn Vmm,
    stop: impl Future<Output = ()>,
) -> Result<Launched, SandboxError> {
    let begun = Instant::now();
    // Takes milliseconds, and is not stopped half-way.
    let (accelerator, prepared) = tokio::join!(kvm::choose(&request.config), prepare(request));
    let (host, tap) = prepared?;
    let owner = Owner::new(host);
    let host_ready = begun.elapsed();
    let rise = async {
        let accelerator =
            accelerator.map_err(|error| SandboxError::doing(ErrorKind::FailedPrecondition, "KVM", &error))?;
        let plan = Plan {
            request,
            vmm,
            accelerator,
        };
        plan.rise(owner.machine(), &tap).await
    };
    let risen = tokio::select! {
        biased;
        () = stop => Err(SandboxError::new(ErrorKind::Unavailable, "the launch was given up")),
        risen = rise => risen,
    };
    match risen {
        Ok(Up {
            agent,
            events,
            mut timings,
        }) => {
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

/// Makes everything on the host that is not a process.
pub(super) async fn prepare(request: &SandboxRequest) -> Result<(Host, OwnedFd), SandboxError> {
    let request = request.clone();
    match tokio::task::spawn_blocking(move || Host::prepare(&request)).await {
        Ok(prepared) => prepared,
        Err(_) => Err(SandboxError::new(
            ErrorKind::Internal,
            "preparing the host panicked",
        )),
    }
}

impl Plan<'_> {
    /// Restores the VM if it can be, else boots it.
    async fn rise(&self, machine: &Arc<Machine>, tap: &OwnedFd) -> Result<Up, SandboxError> {
        let config = &self.request.config;
        let (answer, looked) = timed(template::find(config, self.vmm, &self.shape())).await;
        let mut up = match answer {
            Answer::Restore(file, key) => match self.restore(machine, file, tap.as_fd()).await {
                Ok(up) => up,
                Err(error) => {
                    tracing::warn!("booting instead of restoring from a template: {error}");
                    // A monitor that is too slow to be told what to restore says nothing of the template: on a host
                    // that has too much to do, many boots instead of restores would be the end of it.
                    let monitor_is_slow =
                        error.kind() == ErrorKind::DeadlineExceeded && machine.restored.vm.get().is_none();
                    machine.restored.end().await?;
                    if !monitor_is_slow {
                        template::discard(config, &key, &error.to_string());
                    }
                    let mut up = self.boot(machine, tap.as_fd()).await?;
                    up.timings.origin = Origin::BootedInstead;
                    up
                }
            },
            Answer::Boot => self.boot(machine, tap.as_fd()).await?,
            Answer::Build => {
                let up = self.boot(machine, tap.as_fd()).await?;
                template::build_soon(config, self.request.sizing);
                up
            }
        };
        up.timings.template = looked;
        let origin = up.timings.origin;
        counters::count(&config.state_dir, Event::Launched(origin));
        machine.host.record.update(|state| {
            state.origin = origin;
            state.phase = Phase::Ready;
        })?;
        Ok(up)
    }

    async fn restore(
        &self,
        machine: &Machine,
        file: OwnedFd,
        tap: BorrowedFd<'_>,
    ) -> Result<Up, SandboxError> {
        let (_turn, waited) = timed(Turn::wait(&self.request.config.state_dir, Work::Restore)).await;
        let attempt = &machine.restored;
        let start = Start::Restore(file);
        let started = self.start(machine, attempt, start, copy(tap)?).await?;
        let begun = Instant::now();
        let vm = start::vm(attempt)?;
        let mut stream = start::agent(vm)?;
        let wake = Wake {
            unix_time_ns: unix_time_ns(),
            entropy: entropy()?,
        };
        stream
            .write_all(&wake.encode())
            .await
            .map_err(|error| internal(&error))?;
        let connection = AgentClient::connect(stream);
        let mut up = self.meet(vm, connection, deadlines::WAKE, begun).await?;
        up.timings.origin = Origin::Restored;
        up.timings.turn = waited;
        up.timings.fs_server = started.fs_server;
        up.timings.vmm = started.vmm;
        // The guest counts from the boot of the template.
        up.timings.guest_kernel = Duration::ZERO;
        up.timings.guest_ready = Duration::ZERO;
        Ok(up)
    }

    async fn boot(&self, machine: &Machine, tap: BorrowedFd<'_>) -> Result<Up, SandboxError> {
        // Over once the agent has answered: what follows is waiting.
        let (_turn, waited) = timed(Turn::wait(&self.request.config.state_dir, Work::Boot)).await;
        let attempt: &Processes = &machine.booted;
        let started = self.start(machine, attempt, Start::Boot, copy(tap)?).await?;
        let begun = Instant::now();
        let vm = start::vm(attempt)?;
        let connection = AgentClient::connect(start::agent(vm)?);
        let deadline = self.request.config.boot_timeout();
        let mut up = self.meet(vm, connection, deadline, begun).await?;
        up.timings.turn = waited;
        up.timings.fs_server = started.fs_server;
        up.timings.vmm = started.vmm;
        Ok(up)
    }

    /// Waits for the agent and tells it what it is to be.
    async fn meet(
        &self,
        vm: &VmInstance,
        (agent, events): (AgentClient, mpsc::Receiver<AgentEvent>),
        deadline: Duration,
        begun: Instant,
    ) -> Result<Up, SandboxError> {
        let hello = start::hello(vm, &agent, deadline).await?;
        let boot = begun.elapsed();
        let hostname = self.request.hostname.as_ref().unwrap_or(&self.request.id);
        let configuration = ConfigureSandbox {
            hostname: hostname.chars().take(MAX_HOSTNAME).collect(),
            unix_time_ns: unix_time_ns(),
            entropy: entropy()?.to_vec(),
        };
        let configuration = Body::ConfigureSandbox(configuration);
        agent
            .order("ConfigureSandbox", configuration, deadlines::CONFIGURE)
            .await?;
        let timings = Timings {
            boot,
            configure: begun.elapsed() - boot,
            guest_kernel: Duration::from_nanos(hello.agent_started_ns),
            guest_ready: Duration::from_nanos(hello.ready_ns),
            ..Timings::default()
        };
        Ok(Up {
            agent,
            events,
            timings,
        })
    }
}

/// Nanoseconds since the Unix epoch; a clock before it or after the year 2554 is taken for the epoch.
pub(super) fn unix_time_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

/// Each attempt uses up a descriptor of the tap.
fn copy(tap: BorrowedFd<'_>) -> Result<OwnedFd, SandboxError> {
    tap.try_clone_to_owned().map_err(|error| internal(&error))
}

fn entropy() -> Result<[u8; ENTROPY], SandboxError> {
    let mut bytes = [0; ENTROPY];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| internal(&error))?;
    Ok(bytes)
}

fn internal(error: &io::Error) -> SandboxError {
    SandboxError::new(ErrorKind::Internal, error.to_string())
}
