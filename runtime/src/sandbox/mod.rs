//! The facade the shim uses: one sandbox is one VM with the containers in it, and every resource of
//! the host that they need.
//!
//! A [`Sandbox`] is launched, containers are created in it, and it is shut down; each step is undone
//! when it fails or when its future is dropped. What happens without being asked for arrives as
//! [`SandboxEvent`]s.

mod bereaved;
mod block_devices;
mod container;
mod create;
mod deadlines;
mod delete;
pub(crate) mod directory;
mod disk_layout;
mod disks;
mod error;
mod event;
mod host;
mod launch;
mod machine;
mod nic;
mod pump;
mod record;
mod registry;
mod request;
mod save;
mod start;
mod timings;
mod turn;

use std::future::pending;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bulkhead_agent_protocol::message::ConfigureNetwork;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use crate::agent::{StdioRequest, Streams};
pub use container::{Container, ExecHandle};
pub(crate) use error::chain;
pub use error::{ErrorKind, SandboxError};
pub use event::{ExitStatus, SandboxEvent};
pub use request::{ContainerRequest, SandboxRequest};
pub(crate) use save::save;
pub use timings::{Origin, Timings};

use crate::agent::AgentClient;
use crate::vmm::Vmm;
use crate::vmm::qemu::Qemu;
use block_devices::BlockDevices;
use disks::Targets;
use machine::{Machine, Owner};
use pump::Pump;
use registry::Registry;

/// A running sandbox. Clones share it; dropping the last one, and the last of its containers, kills the VM.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

/// What a sandbox and its containers share.
struct Inner {
    owner: Owner,
    agent: AgentClient,
    registry: Arc<Registry>,
    /// Creates under way; closed once the sandbox shuts down.
    creations: TaskTracker,
    targets: Targets,
    block_devices: BlockDevices,
    anchor_program: PathBuf,
    /// What the guest has been told of its network.
    network: Mutex<Option<ConfigureNetwork>>,
    timings: Timings,
}

impl Sandbox {
    /// Boots the VM and makes it this sandbox: when this returns, the agent has said HELLO and taken
    /// its configuration. Dropping the future leaves nothing behind, if the runtime goes on for some seconds.
    ///
    /// # Errors
    /// What failed, and for a VM that died while booting, its last words.
    pub async fn launch(
        request: SandboxRequest,
    ) -> Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>), SandboxError> {
        Self::launch_unless(pending(), request).await
    }

    /// [`Sandbox::launch`], given up as soon as `stop` is ready: then nothing is left when this returns.
    ///
    /// # Errors
    /// As there; of kind `Unavailable` if it was given up.
    pub async fn launch_unless(
        stop: impl Future<Output = ()>,
        request: SandboxRequest,
    ) -> Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>), SandboxError> {
        let qemu = Qemu::new(&request.config);
        Self::launch_on(&qemu, stop, request).await
    }

    /// [`Sandbox::launch_unless`] on a monitor of the caller's choice.
    ///
    /// # Errors
    /// As there.
    pub async fn launch_on(
        vmm: &dyn Vmm,
        stop: impl Future<Output = ()>,
        request: SandboxRequest,
    ) -> Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>), SandboxError> {
        let launched = launch::launch(&request, vmm, stop).await?;
        let (events, receiver) = mpsc::unbounded_channel();
        let registry = Arc::new(Registry::default());
        let pump = Pump {
            machine: Arc::clone(launched.owner.machine()),
            registry: Arc::clone(&registry),
            agent: launched.events,
            events,
        };
        tokio::spawn(pump.run());
        let inner = Inner {
            owner: launched.owner,
            agent: launched.agent,
            registry,
            creations: TaskTracker::new(),
            targets: Targets::default(),
            block_devices: BlockDevices::default(),
            anchor_program: create::anchor_program(&request.config),
            network: Mutex::default(),
            timings: launched.timings,
        };
        let sandbox = Self {
            inner: Arc::new(inner),
        };
        // A pod's network is there before its sandbox.
        if let Err(error) = sandbox.inner.follow_network().await {
            if let Err(cleanup) = sandbox.inner.machine().end().await {
                tracing::warn!("clean-up after a failed launch: {cleanup}");
            }
            return Err(error);
        }
        Ok((sandbox, receiver))
    }

    /// Prepares a container on the host and creates it in the guest, where its init waits to be started.
    /// Once begun it runs to its end, even if the future is dropped: the container is then deleted.
    ///
    /// # Errors
    /// What failed; everything done so far has been undone. A missing program and the like come in the
    /// agent's words, which are runc's.
    pub async fn create_container(&self, request: ContainerRequest) -> Result<Container, SandboxError> {
        let inner = Arc::clone(&self.inner);
        let (caller, created) = tokio::sync::oneshot::channel();
        let under_way = inner.creations.token();
        if inner.creations.is_closed() {
            let message = format!("container {}: the sandbox is shutting down", request.id);
            return Err(SandboxError::new(ErrorKind::FailedPrecondition, message));
        }
        tokio::spawn(async move {
            let _under_way = under_way;
            let result = inner.create(request).await;
            if let Err(Ok(entry)) = caller.send(result) {
                // Nobody waits for it any more.
                if let Err(error) = inner.delete(&entry).await {
                    tracing::warn!(container = entry.id, "{error}");
                }
            }
        });
        match created.await {
            Ok(result) => Ok(Container {
                sandbox: Arc::clone(&self.inner),
                entry: result?,
            }),
            Err(_) => Err(SandboxError::new(
                ErrorKind::Internal,
                "creating the container panicked",
            )),
        }
    }

    /// Powers the VM off in order, or by force once `deadline` has passed, and releases everything the
    /// sandbox and its containers hold on the host. May be called again.
    ///
    /// # Errors
    /// The VMM could not be killed, or a resource could not be released.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), SandboxError> {
        self.inner.shutdown(deadline).await
    }

    /// How long each phase of the launch took.
    pub fn timings(&self) -> Timings {
        self.inner.timings
    }
}

impl Inner {
    fn machine(&self) -> &Arc<Machine> {
        self.owner.machine()
    }

    /// What the virtual CPUs are at, or why nobody can say, for the log.
    async fn examine_vm(&self) -> String {
        let Some(vm) = self.machine().vm() else {
            return "it has ended".to_owned();
        };
        match timeout(deadlines::EXAMINE, vm.examine()).await {
            Ok(state) => state.unwrap_or_else(|error| error.to_string()),
            Err(_) => "the monitor does not answer either".to_owned(),
        }
    }

    fn kill_vm(&self) -> Result<(), SandboxError> {
        match self.machine().vm() {
            Some(vm) => Ok(vm.kill()?),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("directory", &self.inner.machine().host.directory)
            .finish()
    }
}
