//! Removing what tests leave.

use containerd_client::services::v1::snapshots::RemoveSnapshotRequest;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteTaskRequest, KillRequest, ListContainersRequest, WaitRequest,
};
use nix::sys::signal::Signal;

use super::{Daemon, SNAPSHOTTER};
use crate::client::block_on;
use crate::deadline;

impl Daemon {
    /// Removes whatever is left of a container: task, record, snapshot. Never panics.
    pub fn remove(&self, id: &str) {
        let Some(client) = self.client.lock().unwrap().clone() else {
            return;
        };
        let kill = client.request(KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal: Signal::SIGKILL as u32,
            all: true,
        });
        if client.call(client.tasks().kill(kill)).is_ok() {
            let wait = client.request(WaitRequest {
                container_id: id.to_owned(),
                exec_id: String::new(),
            });
            let ended = block_on(deadline::scaled(deadline::ORDINARY), async {
                client.tasks().wait(wait).await
            });
            if let Err(status) = ended {
                eprintln!("{id} was killed, but: {status}");
            }
        }
        // Each of these is there or not, depending on how far the test came.
        let task = client.request(DeleteTaskRequest {
            container_id: id.to_owned(),
        });
        drop(client.call(client.tasks().delete(task)));
        let snapshotter = self.container(id).map(|record| record.snapshotter);
        let record = client.request(DeleteContainerRequest { id: id.to_owned() });
        drop(client.call(client.containers().delete(record)));
        let snapshot = client.request(RemoveSnapshotRequest {
            snapshotter: snapshotter.unwrap_or_else(|_| SNAPSHOTTER.to_owned()),
            key: id.to_owned(),
        });
        drop(client.call(client.snapshots().remove(snapshot)));
    }

    /// Removes every container. Never panics.
    pub fn remove_all(&self) {
        let Some(client) = self.client.lock().unwrap().clone() else {
            return;
        };
        let request = client.request(ListContainersRequest::default());
        match client.call(client.containers().list(request)) {
            Ok(answer) => answer
                .containers
                .iter()
                .for_each(|container| self.remove(&container.id)),
            Err(status) => eprintln!("list containers: {status}"),
        }
    }
}
