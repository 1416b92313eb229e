//! The seventeen calls.

use async_trait::async_trait;
use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest,
    PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use protobuf::MessageField;
use ttrpc::Result;
use ttrpc::asynchronous::TtrpcContext;

use super::{Service, respond};
use crate::error::TaskError;
use crate::stats;
use crate::stdio::Paths;

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        let container = self.container(&request.id)?;
        let snapshot = container.snapshot(&request.exec_id)?;
        Ok(respond::state(&container, &request.exec_id, snapshot))
    }

    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let pid = self.create_or_undo(request).await?;
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        let container = self.container(&request.id)?;
        let pid = Self::detached(async move {
            match request.exec_id.as_str() {
                "" => container.start().await,
                exec_id => container.start_exec(exec_id).await,
            }
        })
        .await?;
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Result<DeleteResponse> {
        let service = self.clone();
        let deleted = Self::detached(async move {
            if !request.exec_id.is_empty() {
                return service
                    .container(&request.id)?
                    .delete_exec(&request.exec_id)
                    .await;
            }
            // A client that gives up on a Create calls this; it wants to hear that there is nothing.
            let container = service.give_up(&request.id).ok_or(TaskError::NoContainer)?;
            service.delete_container(&container).await
        })
        .await?;
        Ok(respond::delete(deleted))
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Result<PidsResponse> {
        let entries = self.container(&request.id)?.pids();
        let processes = entries.into_iter().map(respond::process_info).collect();
        Ok(PidsResponse {
            processes,
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        Self::detached(async move { container.pause().await }).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        Self::detached(async move { container.resume().await }).await?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: CheckpointTaskRequest) -> Result<Empty> {
        self.container(&request.id)?;
        Err(TaskError::Unimplemented("checkpoint of a container in a VM").into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        Self::detached(async move {
            container
                .kill(&request.exec_id, request.signal, request.all)
                .await
        })
        .await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        bulkhead_oci::validate_id(&request.exec_id)
            .map_err(|source| TaskError::bad_request("exec id", source))?;
        let mut process = bulkhead_oci::parse_process(&request.spec.value)
            .map_err(|source| TaskError::bad_request("process", source))?;
        process.set_terminal(Some(request.terminal));
        let planned = bulkhead_oci::plan_process(&process).map_err(|source| TaskError::Plan {
            what: "process",
            source,
        })?;
        for warning in planned.warnings {
            tracing::warn!(container = request.id, exec = request.exec_id, "{warning}");
        }
        let paths = Paths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        container.add_exec(&request.exec_id, paths, planned.process)?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        Self::detached(async move {
            container
                .resize(&request.exec_id, request.width, request.height)
                .await
        })
        .await?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        if request.stdin {
            container.close_stdin(&request.exec_id)?;
        }
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        let container = self.container(&request.id)?;
        let resources = bulkhead_oci::parse_resources(&request.resources.value)
            .map_err(|source| TaskError::bad_request("resources", source))?;
        Self::detached(async move { container.update(&resources).await }).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        // Changes nothing: it ends with its client.
        let exit = self.container(&request.id)?.wait(&request.exec_id).await?;
        Ok(respond::wait(exit))
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        let latest = self.container(&request.id)?.stats();
        let stats = stats::metrics(latest.as_ref(), self.0.host_cgroups)
            .map_err(|error| TaskError::Internal(error.to_string()))?;
        Ok(StatsResponse {
            stats: MessageField::some(stats),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Result<ConnectResponse> {
        // An unknown id is no error: a daemon that restarts asks before it knows what there is.
        let task_pid = self.container(&request.id).map_or(0, |container| container.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> Result<Empty> {
        self.shut_down(request.now);
        Ok(Empty::default())
    }
}
