//! What containerd published about tasks, in the order it arrived.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

use containerd_client::events::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIo, TaskOom, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_client::services::v1::{PublishRequest, SubscribeRequest};
use containerd_client::types::Envelope;
use prost::Message;

use crate::client::{Client, runtime};
use crate::deadline;
use crate::process::system_time;

/// One event of a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The container it is about.
    pub container_id: String,
    /// What happened.
    pub kind: Kind,
}

/// What happened to a task. An empty `exec_id` is the init process.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // The fields are those of containerd's messages.
pub enum Kind {
    Create {
        pid: u32,
        bundle: String,
        io: Option<TaskIo>,
    },
    Start {
        pid: u32,
    },
    Exit {
        exec_id: String,
        pid: u32,
        status: u32,
        at: SystemTime,
    },
    Delete {
        pid: u32,
        status: u32,
    },
    ExecAdded {
        exec_id: String,
    },
    ExecStarted {
        exec_id: String,
        pid: u32,
    },
    Oom,
    Paused,
    Resumed,
}

/// The container id of events that only prove that events arrive.
const PROBE: &str = "probe";

/// All events of a daemon's namespace since the log was begun.
#[derive(Clone, Default)]
pub struct EventLog {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    events: Mutex<Vec<Event>>,
    arrived: Condvar,
}

// === impl EventLog ===

impl EventLog {
    /// Subscribes, and returns once events arrive. Ends with the connection.
    pub fn follow(&self, client: &Client) {
        let request = client.request(SubscribeRequest {
            filters: vec!["topic~=\"^/tasks/\"".to_owned()],
        });
        let (mut subscriber, log) = (client.events(), self.clone());
        runtime().spawn(async move {
            // containerd answers a Subscribe with its first event, not before.
            let Ok(stream) = subscriber.subscribe(request).await else {
                return;
            };
            let mut stream = stream.into_inner();
            while let Ok(Some(envelope)) = stream.message().await {
                if let Some(event) = decode(&envelope) {
                    log.push(event);
                }
            }
        });
        let probes = |log: &EventLog| log.of(PROBE).len();
        let before = probes(self);
        deadline::poll("a first event", deadline::ORDINARY, || {
            let event = containerd_client::to_any(&TaskPaused {
                container_id: PROBE.to_owned(),
            });
            let request = PublishRequest {
                topic: "/tasks/paused".to_owned(),
                event: Some(event),
            };
            client
                .call(client.events().publish(client.request(request)))
                .expect("publish an event");
            (probes(self) > before).then_some(())
        });
    }

    /// Every event of the container, oldest first.
    pub fn of(&self, container_id: &str) -> Vec<Event> {
        let events = self.inner.events.lock().unwrap();
        events
            .iter()
            .filter(|event| event.container_id == container_id)
            .cloned()
            .collect()
    }

    /// All events.
    pub fn all(&self) -> Vec<Event> {
        self.inner.events.lock().unwrap().clone()
    }

    /// The container's events in short: `start`, `exit`, `exec-started:ID`, `exit:ID`.
    pub fn names(&self, container_id: &str) -> Vec<String> {
        self.of(container_id)
            .iter()
            .map(|event| event.kind.name())
            .collect()
    }

    /// Waits until an event of that short name has arrived, and gives it.
    #[track_caller]
    pub fn wait_for(&self, container_id: &str, name: &str, limit: Duration) -> Event {
        let end = Instant::now() + deadline::scaled(limit);
        let mut events = self.inner.events.lock().unwrap();
        loop {
            let found = events
                .iter()
                .find(|event| event.container_id == container_id && event.kind.name() == name);
            if let Some(event) = found {
                return event.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(events);
                panic!(
                    "no event {name} of {container_id} within {limit:?}; saw {:?}",
                    self.names(container_id)
                );
            }
            events = self.inner.arrived.wait_timeout(events, left).unwrap().0;
        }
    }

    fn push(&self, event: Event) {
        self.inner.events.lock().unwrap().push(event);
        self.inner.arrived.notify_all();
    }
}

// === impl Kind ===

impl Kind {
    /// The event in short; an exec's id stands behind a colon.
    pub fn name(&self) -> String {
        match self {
            Kind::Create { .. } => "create".to_owned(),
            Kind::Start { .. } => "start".to_owned(),
            Kind::Exit { exec_id, .. } if exec_id.is_empty() => "exit".to_owned(),
            Kind::Exit { exec_id, .. } => format!("exit:{exec_id}"),
            Kind::Delete { .. } => "delete".to_owned(),
            Kind::ExecAdded { exec_id } => format!("exec-added:{exec_id}"),
            Kind::ExecStarted { exec_id, .. } => format!("exec-started:{exec_id}"),
            Kind::Oom => "oom".to_owned(),
            Kind::Paused => "paused".to_owned(),
            Kind::Resumed => "resumed".to_owned(),
        }
    }
}

fn decode(envelope: &Envelope) -> Option<Event> {
    let bytes = envelope.event.as_ref()?.value.as_slice();
    let (container_id, kind) = match envelope.topic.as_str() {
        "/tasks/create" => {
            let event = TaskCreate::decode(bytes).ok()?;
            (
                event.container_id,
                Kind::Create {
                    pid: event.pid,
                    bundle: event.bundle,
                    io: event.io,
                },
            )
        }
        "/tasks/start" => {
            let event = TaskStart::decode(bytes).ok()?;
            (event.container_id, Kind::Start { pid: event.pid })
        }
        "/tasks/exit" => {
            let event = TaskExit::decode(bytes).ok()?;
            let exec_id = if event.id == event.container_id {
                String::new()
            } else {
                event.id
            };
            let at = system_time(event.exited_at.as_ref());
            (
                event.container_id,
                Kind::Exit {
                    exec_id,
                    pid: event.pid,
                    status: event.exit_status,
                    at,
                },
            )
        }
        "/tasks/delete" => {
            let event = TaskDelete::decode(bytes).ok()?;
            (
                event.container_id,
                Kind::Delete {
                    pid: event.pid,
                    status: event.exit_status,
                },
            )
        }
        "/tasks/exec-added" => {
            let event = TaskExecAdded::decode(bytes).ok()?;
            (
                event.container_id,
                Kind::ExecAdded {
                    exec_id: event.exec_id,
                },
            )
        }
        "/tasks/exec-started" => {
            let event = TaskExecStarted::decode(bytes).ok()?;
            (
                event.container_id,
                Kind::ExecStarted {
                    exec_id: event.exec_id,
                    pid: event.pid,
                },
            )
        }
        "/tasks/oom" => (TaskOom::decode(bytes).ok()?.container_id, Kind::Oom),
        "/tasks/paused" => (TaskPaused::decode(bytes).ok()?.container_id, Kind::Paused),
        "/tasks/resumed" => (TaskResumed::decode(bytes).ok()?.container_id, Kind::Resumed),
        _ => return None,
    };
    Some(Event { container_id, kind })
}
