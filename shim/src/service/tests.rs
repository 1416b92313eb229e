//! Over a socket, with a client, without a VM.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, KillRequest, PidsRequest, ShutdownRequest,
    StateRequest, StatsRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use ttrpc::asynchronous::Server;
use ttrpc::context::Context;
use ttrpc::{Code, Request};

use super::*;
use crate::options::Options;

struct Rig {
    dir: tempfile::TempDir,
    service: Service,
    server: Server,
    client: Client,
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let handoff = Handoff {
            bundle: dir.path().join("bundle"),
            sandbox: "c".into(),
            socket: dir.path().join("socket"),
            ttrpc_address: String::new(),
            // A configuration that refuses to launch anything.
            options: Options {
                config_body: Some("no_such_key = 1".into()),
                ..Options::default()
            },
            debug: false,
            warnings: Vec::new(),
        };
        let service = Service::new("ns", &handoff, Publisher::start("", "ns"));
        let address = format!("unix://{}", handoff.socket.display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(service.methods());
        server.start().await.unwrap();
        let client = Client::connect(&address).await.unwrap();
        std::fs::create_dir(&handoff.bundle).unwrap();
        Self {
            dir,
            service,
            server,
            client,
        }
    }

    fn tasks(&self) -> TaskClient {
        TaskClient::new(self.client.clone())
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    async fn create(&self, id: &str) -> ttrpc::Error {
        let bundle = self.bundle().to_str().unwrap().to_owned();
        let request = CreateTaskRequest {
            id: id.into(),
            bundle,
            ..Default::default()
        };
        self.tasks()
            .create(Context::default(), &request)
            .await
            .unwrap_err()
    }
}

fn code(error: &ttrpc::Error) -> Code {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("no status: {other}"),
    }
}

#[tokio::test]
async fn an_unknown_container_is_not_found_but_connect_and_shutdown_succeed() {
    let rig = Rig::new().await;
    let (tasks, id) = (rig.tasks(), "nobody".to_owned());
    let state = StateRequest {
        id: id.clone(),
        ..Default::default()
    };
    let error = tasks.state(Context::default(), &state).await.unwrap_err();
    assert!(
        error.to_string().contains("container not created: not found"),
        "{error}"
    );
    assert_eq!(code(&error), Code::NOT_FOUND);
    let kill = KillRequest {
        id: id.clone(),
        signal: 9,
        ..Default::default()
    };
    assert_eq!(
        code(&tasks.kill(Context::default(), &kill).await.unwrap_err()),
        Code::NOT_FOUND
    );
    let delete = DeleteRequest {
        id: id.clone(),
        ..Default::default()
    };
    assert_eq!(
        code(&tasks.delete(Context::default(), &delete).await.unwrap_err()),
        Code::NOT_FOUND
    );
    let stats = StatsRequest {
        id: id.clone(),
        ..Default::default()
    };
    assert_eq!(
        code(&tasks.stats(Context::default(), &stats).await.unwrap_err()),
        Code::NOT_FOUND
    );
    let pids = PidsRequest {
        id: id.clone(),
        ..Default::default()
    };
    assert_eq!(
        code(&tasks.pids(Context::default(), &pids).await.unwrap_err()),
        Code::NOT_FOUND
    );

    let connect = ConnectRequest {
        id: id.clone(),
        ..Default::default()
    };
    let connected = tasks.connect(Context::default(), &connect).await.unwrap();
    assert_eq!((connected.shim_pid, connected.task_pid), (std::process::id(), 0));
    let shutdown = ShutdownRequest {
        id,
        ..Default::default()
    };
    tasks.shutdown(Context::default(), &shutdown).await.unwrap();
    assert_eq!(*rig.service.population().borrow(), None, "the server may end");
}

#[tokio::test]
async fn both_versions_of_the_service_are_served() {
    let mut rig = Rig::new().await;
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = Request {
            service: service.into(),
            method: "Connect".into(),
            payload: ConnectRequest::default().write_to_bytes().unwrap(),
            ..Default::default()
        };
        rig.client.request(request).await.unwrap();
    }
    rig.server.shutdown().await.unwrap();
}

#[tokio::test]
async fn f22_malformed_bundles_are_refused_at_once_and_leave_the_id_free() {
    let rig = Rig::new().await;
    let config = rig.bundle().join("config.json");
    let huge = vec![b' '; 100 << 20];
    let deep = "[".repeat(10_000);
    let specs: [(&str, Option<&[u8]>); 6] = [
        ("missing", None),
        ("empty", Some(b"")),
        ("not UTF-8", Some(b"\xff\xfe")),
        ("deep", Some(deep.as_bytes())),
        ("of wrong types", Some(br#"{"ociVersion": 1}"#)),
        ("huge", Some(&huge)),
    ];
    for (what, spec) in specs {
        if let Some(spec) = spec {
            std::fs::write(&config, spec).unwrap();
        }
        let started = Instant::now();
        let error = rig.create("c").await;
        assert_eq!(code(&error), Code::INVALID_ARGUMENT, "{what}: {error}");
        // A guard against reading or waiting for everything, not a measurement.
        assert!(started.elapsed() < Duration::from_secs(5), "{what}");
        assert_eq!(*rig.service.population().borrow(), Some(0), "{what}");
    }
}

#[tokio::test]
async fn f23_bad_ids_are_refused_before_any_path_is_made_of_them() {
    let rig = Rig::new().await;
    for id in ["", "..", "a/b", "a\0b", "a\nb", "ä", "-a", &"a".repeat(300)] {
        assert_eq!(code(&rig.create(id).await), Code::INVALID_ARGUMENT, "{id:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_to_end_takes_no_more_containers() {
    let rig = Rig::new().await;
    rig.service.shut_down(false);
    assert_eq!(code(&rig.create("c").await), Code::UNAVAILABLE);
}

#[tokio::test]
async fn news_of_a_container_that_is_being_created_is_kept_for_it() {
    let rig = Rig::new().await;
    rig.service.reserve("c").unwrap();
    assert!(matches!(
        rig.service.reserve("c"),
        Err(TaskError::ContainerExists(_))
    ));
    let (sender, events) = mpsc::unbounded_channel();
    sender
        .send(SandboxEvent::Oom {
            container_id: "c".into(),
        })
        .unwrap();
    drop(sender);
    rig.service.clone().take_events(events).await;
    let slots = rig.service.lock();
    assert!(matches!(slots.by_id.get("c"), Some(Slot::Reserved { early, .. }) if early.len() == 1));
}

#[tokio::test]
async fn a_create_that_its_client_gives_up_does_not_keep_the_server() {
    let rig = Rig::new().await;
    rig.service.reserve("c").unwrap();
    rig.service.shut_down(false);
    assert_eq!(
        *rig.service.population().borrow(),
        Some(1),
        "somebody waits for it"
    );
    let delete = DeleteRequest {
        id: "c".into(),
        ..Default::default()
    };
    let error = rig.tasks().delete(Context::default(), &delete).await.unwrap_err();
    assert_eq!(code(&error), Code::NOT_FOUND);
    rig.service.shut_down(false);
    assert_eq!(*rig.service.population().borrow(), None);
}
