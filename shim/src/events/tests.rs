//! Against a daemon that speaks ttrpc and can be made to fail.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::sync::mpsc;
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::*;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Daemon {
    _server: Server,
    received: mpsc::UnboundedReceiver<Envelope>,
    refuse: Arc<AtomicBool>,
}

struct Sink {
    received: mpsc::UnboundedSender<Envelope>,
    refuse: Arc<AtomicBool>,
}

#[async_trait]
impl Events for Sink {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(ttrpc::error::get_rpc_status(ttrpc::Code::INVALID_ARGUMENT, "no"));
        }
        self.received.send(request.envelope.unwrap()).unwrap();
        Ok(Empty::default())
    }
}

impl Daemon {
    async fn at(socket: &Path) -> Self {
        std::fs::remove_file(socket).ok();
        let (sender, received) = mpsc::unbounded_channel();
        let refuse = Arc::new(AtomicBool::new(false));
        let service = create_events(Arc::new(Sink {
            received: sender,
            refuse: refuse.clone(),
        }));
        let address = format!("unix://{}", socket.display());
        let mut server = Server::new().bind(&address).unwrap().register_service(service);
        server.start().await.unwrap();
        Self {
            _server: server,
            received,
            refuse,
        }
    }

    async fn next(&mut self) -> Envelope {
        timeout(PATIENCE, self.received.recv()).await.unwrap().unwrap()
    }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ttrpc");
    (dir, path)
}

fn exit(pid: u32) -> task::TaskExit {
    task::TaskExit {
        container_id: "c".into(),
        pid,
        ..Default::default()
    }
}

#[tokio::test]
async fn events_arrive_complete_and_in_order() {
    let (_dir, socket) = socket();
    let mut daemon = Daemon::at(&socket).await;
    let publisher = Publisher::start(socket.to_str().unwrap(), "ns");
    publisher.publish(&task::TaskStart {
        container_id: "c".into(),
        pid: 1,
        ..Default::default()
    });
    for pid in 2..100 {
        publisher.publish(&exit(pid));
    }
    let first = daemon.next().await;
    assert_eq!(
        (first.namespace.as_str(), first.topic.as_str()),
        ("ns", "/tasks/start")
    );
    assert_eq!(first.event.type_url, "containerd.events.TaskStart");
    assert!(first.timestamp.seconds > 0);
    for pid in 2..100 {
        let event = daemon.next().await;
        assert_eq!(event.topic, "/tasks/exit");
        assert_eq!(
            task::TaskExit::parse_from_bytes(&event.event.value).unwrap().pid,
            pid
        );
    }
    publisher.flush(PATIENCE).await;
}

#[tokio::test]
async fn f11_events_are_kept_while_the_daemon_is_away() {
    let (_dir, socket) = socket();
    let publisher = Publisher::start(&format!("unix://{}", socket.display()), "ns");
    publisher.publish(&exit(1));
    publisher.flush(Duration::from_millis(200)).await;
    let mut daemon = Daemon::at(&socket).await;
    publisher.publish(&exit(2));
    for pid in [1, 2] {
        assert_eq!(
            task::TaskExit::parse_from_bytes(&daemon.next().await.event.value)
                .unwrap()
                .pid,
            pid
        );
    }
    drop(daemon);
    publisher.publish(&exit(3));
    let mut daemon = Daemon::at(&socket).await;
    assert_eq!(
        task::TaskExit::parse_from_bytes(&daemon.next().await.event.value)
            .unwrap()
            .pid,
        3
    );
}

#[tokio::test]
async fn a_refused_event_does_not_hold_up_the_next() {
    let (_dir, socket) = socket();
    let mut daemon = Daemon::at(&socket).await;
    let publisher = Publisher::start(socket.to_str().unwrap(), "ns");
    daemon.refuse.store(true, Ordering::SeqCst);
    publisher.publish(&exit(1));
    publisher.flush(PATIENCE).await;
    daemon.refuse.store(false, Ordering::SeqCst);
    publisher.publish(&exit(2));
    assert_eq!(
        task::TaskExit::parse_from_bytes(&daemon.next().await.event.value)
            .unwrap()
            .pid,
        2
    );
}

#[tokio::test]
async fn without_a_daemon_events_go_nowhere() {
    let publisher = Publisher::start("", "ns");
    publisher.publish(&exit(1));
    publisher.flush(PATIENCE).await;
}
