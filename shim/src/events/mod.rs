//! What happens to tasks, told to containerd.
//!
//! One task sends one event after the other, so that the order is that of [`Publisher::publish`]'s calls.
//! While containerd is away they are kept. Nobody waits for any of this.

mod queue;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task;
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, EventsClient};
use containerd_shim_protos::topics;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use ttrpc::asynchronous::transport::Socket;

use queue::{Event, Queue};

/// For one event, connecting included; containerd's own shims wait as long.
const FORWARD_DEADLINE: Duration = Duration::from_secs(5);
/// First wait after a failure; doubled up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// containerd's restart is noticed within this.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Takes events. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Publisher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to send.
    pushed: Notify,
    /// Everything has been sent.
    drained: Notify,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    /// An event has been taken out and is not yet sent.
    sending: bool,
}

impl Publisher {
    /// Starts sending to containerd's event socket. Without an address, as when the shim was started by
    /// hand, events go nowhere.
    pub fn start(ttrpc_address: &str, namespace: &str) -> Self {
        let publisher = Self(Arc::new(Shared {
            state: Mutex::default(),
            pushed: Notify::new(),
            drained: Notify::new(),
        }));
        let address = ttrpc_address
            .strip_prefix("unix://")
            .unwrap_or(ttrpc_address)
            .to_owned();
        let forwarder = Forwarder {
            address,
            namespace: namespace.to_owned(),
            client: None,
        };
        tokio::spawn(forwarder.run(publisher.0.clone()));
        publisher
    }

    /// Queues an event, which happened now.
    pub fn publish<E: TaskEvent>(&self, message: &E) {
        let value = match message.write_to_bytes() {
            Ok(value) => value,
            Err(error) => {
                tracing::error!(event = E::NAME, %error, "event cannot be encoded");
                return;
            }
        };
        let type_url = format!("containerd.events.{}", E::NAME);
        let event = Event {
            topic: E::TOPIC,
            type_url,
            value,
            at: SystemTime::now(),
            precious: E::PRECIOUS,
        };
        self.0.lock().queue.push(event);
        self.0.pushed.notify_one();
    }

    /// Waits until everything has been sent, at most until `deadline` has passed.
    pub async fn flush(&self, deadline: Duration) {
        let empty = async {
            loop {
                let drained = self.0.drained.notified();
                if self.0.is_drained() {
                    return;
                }
                drained.await;
            }
        };
        if timeout(deadline, empty).await.is_err() {
            tracing::warn!("events are lost: containerd does not take them");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the queue half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Event> {
        let mut state = self.lock();
        let dropped = state.queue.take_dropped();
        if dropped > 0 {
            tracing::warn!(
                events = dropped,
                "events dropped: containerd has not taken any for too long"
            );
        }
        let event = state.queue.pop();
        state.sending = event.is_some();
        event
    }

    fn is_drained(&self) -> bool {
        let state = self.lock();
        !state.sending && state.queue.is_empty()
    }
}

/// Sends.
struct Forwarder {
    address: String,
    namespace: String,
    client: Option<EventsClient>,
}

impl Forwarder {
    async fn run(mut self, shared: Arc<Shared>) {
        loop {
            let Some(event) = shared.take() else {
                shared.drained.notify_waiters();
                shared.pushed.notified().await;
                continue;
            };
            if !self.address.is_empty() {
                self.send(&event).await;
            }
        }
    }

    /// Sends one event, however long it takes. One that containerd refuses is given up: it would be
    /// refused again.
    async fn send(&mut self, event: &Event) {
        let mut backoff = MIN_BACKOFF;
        loop {
            match timeout(FORWARD_DEADLINE, self.try_send(event)).await {
                Ok(Ok(())) => return,
                Ok(Err(ttrpc::Error::RpcStatus(status))) => {
                    tracing::warn!(topic = event.topic, error = status.message(), "event refused");
                    return;
                }
                Ok(Err(error)) => tracing::debug!(topic = event.topic, %error, "event not sent yet"),
                Err(_) => tracing::warn!(topic = event.topic, "containerd does not take an event"),
            }
            self.client = None;
            sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn try_send(&mut self, event: &Event) -> ttrpc::Result<()> {
        let client = match &self.client {
            Some(client) => client,
            None => {
                let stream = UnixStream::connect(&self.address)
                    .await
                    .map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
                self.client
                    .insert(EventsClient::new(Client::new(Socket::from(stream))))
            }
        };
        let envelope = Envelope {
            timestamp: MessageField::some(Timestamp::from(event.at)),
            namespace: self.namespace.clone(),
            topic: event.topic.to_owned(),
            event: MessageField::some(Any {
                type_url: event.type_url.clone(),
                value: event.value.clone(),
                ..Any::default()
            }),
            ..Envelope::default()
        };
        let request = ForwardRequest {
            envelope: MessageField::some(envelope),
            ..ForwardRequest::default()
        };
        // The deadline is our caller's; ttrpc's own would leave the connection in doubt.
        client
            .forward(ttrpc::context::Context::default(), &request)
            .await
            .map(drop)
    }
}

/// A message that containerd's exchange knows.
pub trait TaskEvent: Message {
    /// Its topic.
    const TOPIC: &'static str;
    /// Clients wait for it.
    const PRECIOUS: bool = false;
}

impl TaskEvent for task::TaskCreate {
    const TOPIC: &'static str = topics::TASK_CREATE_EVENT_TOPIC;
}
impl TaskEvent for task::TaskStart {
    const TOPIC: &'static str = topics::TASK_START_EVENT_TOPIC;
}
impl TaskEvent for task::TaskExit {
    const TOPIC: &'static str = topics::TASK_EXIT_EVENT_TOPIC;
    const PRECIOUS: bool = true;
}
impl TaskEvent for task::TaskDelete {
    const TOPIC: &'static str = topics::TASK_DELETE_EVENT_TOPIC;
    const PRECIOUS: bool = true;
}
impl TaskEvent for task::TaskExecAdded {
    const TOPIC: &'static str = topics::TASK_EXEC_ADDED_EVENT_TOPIC;
}
impl TaskEvent for task::TaskExecStarted {
    const TOPIC: &'static str = topics::TASK_EXEC_STARTED_EVENT_TOPIC;
}
impl TaskEvent for task::TaskOOM {
    const TOPIC: &'static str = topics::TASK_OOM_EVENT_TOPIC;
}
impl TaskEvent for task::TaskPaused {
    const TOPIC: &'static str = topics::TASK_PAUSED_EVENT_TOPIC;
}
impl TaskEvent for task::TaskResumed {
    const TOPIC: &'static str = topics::TASK_RESUMED_EVENT_TOPIC;
}

#[cfg(test)]
mod tests;
