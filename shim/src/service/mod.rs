//! The Task service: containers by id, and what each call does with them.
//!
//! ttrpc drops a request's future when its client goes away. So whatever changes anything runs in a task
//! of its own ([`Service::detached`]), to its end.

mod calls;
mod create;
mod respond;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bulkhead_runtime::sandbox::SandboxEvent;
use containerd_shim_protos::events::task::TaskCreate;
use containerd_shim_protos::shim_async::create_task;
use tokio::sync::{mpsc, watch};
use ttrpc::asynchronous::Service as MethodTable;

use crate::container::{Container, Deleted};
use crate::error::TaskError;
use crate::events::Publisher;
use crate::handoff::Handoff;
use crate::sandbox::Launcher;
use crate::stats::HostCgroups;

/// The name under which the crate's code knows the service; containerd 1.6 and 1.7 know the older one.
/// Messages and methods are the same.
const TASK_V3: &str = "containerd.task.v3.Task";
const TASK_V2: &str = "containerd.task.v2.Task";

/// The service; clones share it.
#[derive(Debug, Clone)]
pub struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    namespace: String,
    launcher: Launcher,
    publisher: Publisher,
    host_cgroups: HostCgroups,
    slots: Mutex<Slots>,
    /// How many containers there are, being created or created; `None` once Shutdown was granted.
    population: watch::Sender<Option<usize>>,
}

#[derive(Debug, Default)]
struct Slots {
    by_id: HashMap<String, Slot>,
    closed: bool,
}

/// An id that is taken.
#[derive(Debug)]
enum Slot {
    /// By a Create that has not ended. No call finds the container yet, but the sandbox may already have
    /// something to say of it.
    Reserved {
        /// What it had to say.
        early: Vec<SandboxEvent>,
        /// Whoever wanted the container has given up: it goes as soon as it is there.
        given_up: bool,
    },
    /// By a container.
    Created(Arc<Container>),
}

impl Service {
    /// A service without containers.
    pub fn new(namespace: &str, handoff: &Handoff, publisher: Publisher) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let launcher = Launcher::new(namespace, &handoff.sandbox, handoff.options.clone(), sender);
        let service = Self(Arc::new(Shared {
            namespace: namespace.to_owned(),
            launcher,
            publisher,
            host_cgroups: HostCgroups::detect(),
            slots: Mutex::default(),
            population: watch::Sender::new(Some(0)),
        }));
        tokio::spawn(service.clone().take_events(events));
        service
    }

    /// Its methods, under both names.
    pub fn methods(&self) -> HashMap<String, MethodTable> {
        let mut methods = create_task(Arc::new(self.clone()));
        let again = create_task(Arc::new(self.clone()));
        methods.extend(again.into_iter().map(|(name, table)| {
            let name = if name == TASK_V3 { TASK_V2.to_owned() } else { name };
            (name, table)
        }));
        methods
    }

    /// Starts building the sandbox before Create comes. A bundle that is not valid is left to Create,
    /// which tells the client.
    pub fn launch_early(&self, bundle: &std::path::Path, container_id: &str) {
        let launched =
            crate::sandbox::plan(bundle, container_id).and_then(|planned| self.0.launcher.launch(&planned));
        if let Err(error) = launched {
            tracing::warn!(%error, "sandbox not launched before Create");
        }
    }

    /// The number of containers, to be watched; `None` when a client has asked for the end and got it.
    pub fn population(&self) -> watch::Receiver<Option<usize>> {
        self.0.population.subscribe()
    }

    /// Refuses new containers from now on and breaks off a launch; gives the sandbox, if there is one.
    pub async fn close(&self) -> Option<bulkhead_runtime::sandbox::Sandbox> {
        self.lock().closed = true;
        self.0.launcher.close().await
    }

    /// Runs a call to its end, even if whoever waits for it goes away.
    async fn detached<T, F>(call: F) -> Result<T, TaskError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TaskError>> + Send + 'static,
    {
        match tokio::spawn(call).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => Err(TaskError::Internal("the call panicked".to_owned())),
            // Only the end of the runtime cancels it.
            Err(_) => Err(TaskError::ShuttingDown),
        }
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, TaskError> {
        match self.lock().by_id.get(id) {
            Some(Slot::Created(container)) => Ok(container.clone()),
            Some(Slot::Reserved { .. }) | None => Err(TaskError::NoContainer),
        }
    }

    /// Takes an id for a Create.
    fn reserve(&self, id: &str) -> Result<(), TaskError> {
        let mut slots = self.lock();
        if slots.closed {
            return Err(TaskError::ShuttingDown);
        }
        if slots.by_id.contains_key(id) {
            return Err(TaskError::ContainerExists(id.to_owned()));
        }
        slots.by_id.insert(
            id.to_owned(),
            Slot::Reserved {
                early: Vec::new(),
                given_up: false,
            },
        );
        self.count(&slots);
        Ok(())
    }

    /// Puts a container in the place that was taken for it, tells containerd, and tells the container what
    /// has happened to it so far. False if it is wanted no more.
    fn register(&self, container: &Arc<Container>, created: &TaskCreate) -> bool {
        let mut slots = self.lock();
        let Some(Slot::Reserved {
            early,
            given_up: false,
        }) = slots.by_id.get_mut(container.id())
        else {
            return false;
        };
        let early = std::mem::take(early);
        slots
            .by_id
            .insert(container.id().to_owned(), Slot::Created(container.clone()));
        self.0.publisher.publish(created);
        early.into_iter().for_each(|event| dispatch(container, event));
        true
    }

    /// The client of a Create has given up, as it does by calling Delete, by its deadline or by going away.
    /// Returns the container if it is there already.
    fn give_up(&self, id: &str) -> Option<Arc<Container>> {
        match self.lock().by_id.get_mut(id)? {
            Slot::Reserved { given_up, .. } => {
                *given_up = true;
                None
            }
            Slot::Created(container) => Some(container.clone()),
        }
    }

    /// Deletes a container and tells containerd.
    async fn delete_container(&self, container: &Arc<Container>) -> Result<Deleted, TaskError> {
        let deleted = container.delete().await?;
        // Of two Deletes at the same time one is told that there is nothing left.
        if !self.release(container.id()) {
            return Err(TaskError::NoContainer);
        }
        self.0
            .publisher
            .publish(&respond::task_delete(container.id(), deleted));
        Ok(deleted)
    }

    /// Gives an id back. False if somebody else has done so.
    fn release(&self, id: &str) -> bool {
        let mut slots = self.lock();
        let released = slots.by_id.remove(id).is_some();
        self.count(&slots);
        released
    }

    /// A client wants the server to end: it may if there is no container, and none that is still wanted is
    /// being created. `now` ends it in any case.
    fn shut_down(&self, now: bool) {
        let mut slots = self.lock();
        let wanted = |slot: &Slot| !matches!(slot, Slot::Reserved { given_up: true, .. });
        if now || !slots.by_id.values().any(wanted) {
            slots.closed = true;
            self.count(&slots);
        }
    }

    fn count(&self, slots: &Slots) {
        self.0
            .population
            .send_replace((!slots.closed).then_some(slots.by_id.len()));
    }

    async fn take_events(self, mut events: mpsc::UnboundedReceiver<SandboxEvent>) {
        while let Some(event) = events.recv().await {
            let mut slots = self.lock();
            match &event {
                SandboxEvent::VmGone { reason } => {
                    tracing::error!(reason, "the VM is gone");
                    for slot in slots.by_id.values() {
                        // A Create that is under way fails by itself.
                        if let Slot::Created(container) = slot {
                            dispatch(container, event.clone());
                        }
                    }
                }
                SandboxEvent::Exited { container_id, .. } | SandboxEvent::Oom { container_id } => {
                    match slots.by_id.get_mut(container_id) {
                        Some(Slot::Created(container)) => dispatch(container, event),
                        Some(Slot::Reserved { early, .. }) => early.push(event),
                        None => tracing::debug!(container = container_id, "news of an unknown container"),
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Each change is one insertion or removal.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dispatch(container: &Arc<Container>, event: SandboxEvent) {
    match event {
        SandboxEvent::Exited {
            exec_id, status, at, ..
        } => {
            container.exited(&exec_id, status.containerd_status(), at);
        }
        SandboxEvent::Oom { .. } => container.oom(),
        SandboxEvent::VmGone { .. } => container.vm_gone(std::time::SystemTime::now()),
    }
}

#[cfg(test)]
mod tests;
