//! Blocking calls to containerd's gRPC API: every call has the namespace and a deadline.

use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::events_client::EventsClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status};
use tokio::runtime::Runtime;

use crate::deadline::scaled;

/// No call but Wait may take longer, whatever happened to the shim or the VM. Create boots a VM,
/// which ten at once do in half a minute on two busy cores.
pub const CALL: Duration = Duration::from_secs(120);

/// A connection to one containerd, bound to a namespace.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    namespace: String,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path, namespace: &str) -> Result<Client, Status> {
        let channel = block_on(scaled(CALL), async {
            containerd_client::connect(path)
                .await
                .map_err(|error| Status::unavailable(error.to_string()))
        })?;
        Ok(Client {
            channel,
            namespace: namespace.to_owned(),
        })
    }

    /// The tasks service.
    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// The containers service.
    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone())
    }

    /// The snapshots service.
    pub fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone())
    }

    /// The events service.
    pub fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone())
    }

    /// `message` as a request in this client's namespace.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let namespace = self.namespace.parse().expect("a namespace is ASCII");
        request.metadata_mut().insert("containerd-namespace", namespace);
        request
    }

    /// Waits for the answer to one call.
    pub fn call<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        self.call_within(scaled(CALL), call)
    }

    /// Waits for the answer, and after `limit`, exactly, takes the call back.
    pub fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        block_on(limit, call).map(Response::into_inner)
    }
}

/// The async runtime under the harness's blocking face.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("start the harness's async runtime")
    })
}

/// Runs `future` to its end, or answers DeadlineExceeded after `limit`.
pub fn block_on<T>(limit: Duration, future: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    runtime().block_on(async {
        match tokio::time::timeout(limit, future).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(
                Code::DeadlineExceeded,
                format!("no answer within {limit:?}"),
            )),
        }
    })
}
