//! The sandbox this server is for: launched as soon as enough is known of it, once.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bulkhead_oci::runtime::Spec;
use bulkhead_oci::sizing::{self, Size};
use bulkhead_oci::{ContainerPlan, GuestPaths};
use bulkhead_runtime::ownership;
use bulkhead_runtime::sandbox::{ErrorKind, Sandbox, SandboxError, SandboxEvent, SandboxRequest};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::annotations;
use crate::error::TaskError;
use crate::options::Options;

/// Where the agent mounts the sandbox's share.
const GUEST_SHARE: &str = "/run/share";

/// Launches the sandbox and hands it out.
#[derive(Debug)]
pub struct Launcher {
    namespace: String,
    sandbox: String,
    options: Options,
    events: mpsc::UnboundedSender<SandboxEvent>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    launch: Option<Launch>,
    closed: bool,
}

#[derive(Debug)]
struct Launch {
    outcome: watch::Receiver<Option<Result<Sandbox, (ErrorKind, String)>>>,
    /// Dropped to have the launch given up.
    wanted: oneshot::Sender<Infallible>,
    task: JoinHandle<()>,
}

/// A container's spec, read and planned.
#[derive(Debug)]
pub struct Planned {
    /// As it is in the bundle.
    pub spec: Spec,
    /// Split into host's and guest's part.
    pub plan: ContainerPlan,
}

/// Reads and plans a bundle; takes a millisecond, touches nothing.
///
/// # Errors
/// The id, the spec or what it asks for is not valid.
pub fn plan(bundle: &Path, container_id: &str) -> Result<Planned, TaskError> {
    bulkhead_oci::validate_id(container_id)
        .map_err(|source| TaskError::bad_request("container id", source))?;
    let spec = bulkhead_oci::read_spec(&bundle.join("config.json"))
        .map_err(|source| TaskError::bad_request("bundle", source))?;
    let guest = GuestPaths {
        container: Path::new(GUEST_SHARE).join(container_id),
    };
    let plan = bulkhead_oci::plan(&spec, bundle, container_id, &guest).map_err(|source| TaskError::Plan {
        what: "config.json",
        source,
    })?;
    Ok(Planned { spec, plan })
}

impl Launcher {
    /// Nothing is launched yet. Events of the sandbox go to `events`.
    pub fn new(
        namespace: &str,
        sandbox: &str,
        options: Options,
        events: mpsc::UnboundedSender<SandboxEvent>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            sandbox: sandbox.to_owned(),
            options,
            events,
            state: Mutex::default(),
        }
    }

    /// Starts the launch with what the first container's spec says of the sandbox. Later calls do nothing.
    ///
    /// # Errors
    /// The configuration or the spec's annotations are not valid; the launch has not been started then.
    pub fn launch(&self, first: &Planned) -> Result<(), TaskError> {
        let mut state = self.lock();
        if state.closed {
            return Err(TaskError::ShuttingDown);
        }
        if state.launch.is_none() {
            let request = self.request(first)?;
            state.launch = Some(Launch::start(request, self.events.clone()));
        }
        Ok(())
    }

    /// The sandbox, once it is up.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn sandbox(&self) -> Result<Sandbox, TaskError> {
        let mut outcome = match &self.lock().launch {
            Some(launch) => launch.outcome.clone(),
            None => {
                return Err(TaskError::Internal(
                    "the sandbox has not been launched".to_owned(),
                ));
            }
        };
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .map_err(|_| TaskError::ShuttingDown)?;
        match outcome.as_ref() {
            Some(Ok(sandbox)) => Ok(sandbox.clone()),
            Some(Err((kind, text))) => Err(SandboxError::new(*kind, text.clone()).into()),
            None => Err(TaskError::ShuttingDown),
        }
    }

    /// Ends everything: gives the sandbox to shut down, if there is one. A launch under way is given up, and
    /// nothing of it is left when this returns.
    pub async fn close(&self) -> Option<Sandbox> {
        let launch = {
            let mut state = self.lock();
            state.closed = true;
            state.launch.take()
        }?;
        drop(launch.wanted);
        if let Err(error) = launch.task.await {
            tracing::error!(%error, "the launch ended without an outcome");
        }
        let outcome = launch.outcome.borrow();
        outcome
            .as_ref()
            .and_then(|outcome| outcome.as_ref().ok())
            .cloned()
    }

    fn request(&self, first: &Planned) -> Result<SandboxRequest, TaskError> {
        let config = self
            .options
            .config()
            .map_err(|source| TaskError::bad_request("configuration", source))?;
        ownership::check(&ownership::paths(&config, self.options.file()))
            .map_err(|error| SandboxError::new(ErrorKind::FailedPrecondition, error.to_string()))?;
        let resources = first
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        let annotations = first.spec.annotations().as_ref();
        let followed = annotations::followed(annotations, &config.allowed_annotations)
            .map_err(|source| TaskError::bad_request("annotations", source))?;
        for (annotation, value) in followed {
            tracing::info!(annotation, value, sandbox = self.sandbox, "an annotation chooses");
        }
        let default = Size {
            vcpus: config.default_vcpus,
            memory_mib: config.default_memory_mib,
        };
        let sizing = sizing::size(resources, annotations, default)
            .map_err(|source| TaskError::bad_request("sandbox size", source))?;
        Ok(SandboxRequest {
            namespace: self.namespace.clone(),
            id: self.sandbox.clone(),
            config,
            sizing,
            network: first.plan.host.network.clone(),
            hostname: first.plan.guest.hostname().clone(),
            cgroups_path: first.plan.host.cgroups_path.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launch {
    fn start(request: SandboxRequest, events: mpsc::UnboundedSender<SandboxEvent>) -> Self {
        let (sender, outcome) = watch::channel(None);
        let (wanted, unwanted) = oneshot::channel::<Infallible>();
        let task = tokio::spawn(async move {
            // Nothing is ever sent.
            let stop = async { drop(unwanted.await) };
            match Sandbox::launch_unless(stop, request).await {
                Ok((sandbox, mut from_sandbox)) => {
                    tracing::info!(timings = ?sandbox.timings(), "sandbox is up");
                    sender.send_replace(Some(Ok(sandbox)));
                    // Another task's: this one ends with the launch.
                    tokio::spawn(async move {
                        while let Some(event) = from_sandbox.recv().await {
                            if events.send(event).is_err() {
                                return;
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "sandbox failed to launch");
                    sender.send_replace(Some(Err((error.kind(), error.to_string()))));
                }
            }
        });
        Self {
            outcome,
            wanted,
            task,
        }
    }
}
