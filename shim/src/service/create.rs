//! Create.

use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_runtime::rootfs::RootfsMount;
use bulkhead_runtime::sandbox::{ContainerRequest, Streams};
use containerd_shim_protos::api::{CreateTaskRequest, Mount};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use protobuf::MessageField;

use super::Service;
use crate::container::Container;
use crate::error::TaskError;
use crate::sandbox::{Planned, plan};
use crate::stdio::{Paths, Stdio};

impl Service {
    /// Create. If nobody waits for it any more, nothing of it stays: what cannot be broken off is undone.
    pub(super) async fn create_or_undo(&self, request: CreateTaskRequest) -> Result<u32, TaskError> {
        self.reserve(&request.id)?;
        let caller = Caller {
            service: self,
            id: Some(request.id.clone()),
        };
        let service = self.clone();
        let created = Self::detached(async move { service.create_container(request).await }).await;
        caller.answered();
        created
    }

    /// Creates a container whose id has been taken; its init waits for Start.
    async fn create_container(&self, request: CreateTaskRequest) -> Result<u32, TaskError> {
        let reservation = Reservation {
            service: self,
            id: Some(request.id.clone()),
        };
        if !request.checkpoint.is_empty() {
            return Err(TaskError::Unimplemented("restoring from a checkpoint"));
        }
        let bundle = PathBuf::from(&request.bundle);
        if !bundle.is_absolute() {
            return Err(TaskError::bad_request(
                "bundle",
                format!("{:?} is not absolute", request.bundle),
            ));
        }
        let planned = plan(&bundle, &request.id)?;
        for warning in &planned.plan.warnings {
            tracing::warn!(container = request.id, "{warning}");
        }
        self.0.launcher.launch(&planned)?;

        let paths = paths(&request);
        let stdio = Stdio::open(&paths, &self.0.namespace, &request.id).await?;
        let sandbox = self.0.launcher.sandbox().await?;
        let guest = sandbox
            .create_container(container_request(&request, planned, &stdio))
            .await?;
        let none = Streams {
            stdin: None,
            stdout: None,
            stderr: None,
        };
        let copies = stdio.attach(guest.take_streams().unwrap_or(none), &request.id);
        let pid = guest.pid();
        // `delete` tells it to containerd if this server dies. Without it, it tells 0.
        if let Err(error) = std::fs::write(bundle.join("init.pid"), pid.to_string()) {
            tracing::warn!(%error, "init.pid not written");
        }

        let container = Arc::new(Container::new(
            &request.id,
            &self.0.namespace,
            bundle,
            guest,
            paths,
            Some(copies),
            self.0.publisher.clone(),
        ));
        if !self.register(&container, &created(request, pid)) {
            tracing::warn!(container = container.id(), "deleted: its client has given up");
            container.delete().await?;
            return Err(TaskError::ShuttingDown);
        }
        reservation.keep();
        Ok(pid)
    }
}

/// Whoever waits for a Create. ttrpc drops a request's future when its client is gone, or its deadline has
/// passed; and with it this.
struct Caller<'a> {
    service: &'a Service,
    id: Option<String>,
}

impl Caller<'_> {
    fn answered(mut self) {
        self.id = None;
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        if let Some(container) = self.service.give_up(&id) {
            // Created, and nobody has been told.
            let service = self.service.clone();
            tokio::spawn(async move { service.delete_container(&container).await });
        }
    }
}

/// Gives the id back unless the container takes its place.
struct Reservation<'a> {
    service: &'a Service,
    id: Option<String>,
}

impl Reservation<'_> {
    fn keep(mut self) {
        self.id = None;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.service.release(&id);
        }
    }
}

fn paths(request: &CreateTaskRequest) -> Paths {
    Paths {
        stdin: request.stdin.clone(),
        stdout: request.stdout.clone(),
        stderr: request.stderr.clone(),
        terminal: request.terminal,
    }
}

fn container_request(request: &CreateTaskRequest, planned: Planned, stdio: &Stdio) -> ContainerRequest {
    ContainerRequest {
        id: request.id.clone(),
        bundle: PathBuf::from(&request.bundle),
        spec_annotations: planned.spec.annotations().clone().unwrap_or_default(),
        plan: planned.plan,
        rootfs: request.rootfs.iter().map(rootfs_mount).collect(),
        stdio: stdio.request(),
    }
}

fn rootfs_mount(mount: &Mount) -> RootfsMount {
    RootfsMount {
        fstype: mount.type_.clone(),
        source: mount.source.clone(),
        target: PathBuf::from(&mount.target),
        options: mount.options.clone(),
    }
}

fn created(request: CreateTaskRequest, pid: u32) -> TaskCreate {
    let io = TaskIO {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        terminal: request.terminal,
        ..TaskIO::default()
    };
    TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: MessageField::some(io),
        pid,
        ..TaskCreate::default()
    }
}
