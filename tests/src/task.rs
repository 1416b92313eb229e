//! A task: a container's init process and all that is done to the container as a whole.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use containerd_client::services::v1::{
    CreateTaskRequest, ListPidsRequest, PauseTaskRequest, ResumeTaskRequest, UpdateTaskRequest,
};
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use prost_types::Any;
use serde_json::Value;

use crate::client::CALL;
use crate::daemon::Daemon;
use crate::deadline;
use crate::exec::Exec;
use crate::process::{Finished, Process};
use crate::settings::Settings;
use crate::stdio::{Request, Stdio};

/// A created task. Dropping it kills it and removes its container, so that a failed test leaves
/// nothing to the next.
pub struct Task<'d> {
    init: Process<'d>,
    pid: u32,
}

// === impl Task ===

impl<'d> Task<'d> {
    /// Creates the task of an existing container, on `rootfs` if it is not its snapshot.
    pub(crate) fn create(
        daemon: &'d Daemon,
        id: &str,
        rootfs: Option<Vec<Mount>>,
        request: Request,
    ) -> Result<Task<'d>, Status> {
        Task::create_within(CALL, daemon, id, rootfs, request)
    }

    /// The same, or takes the call back after `limit`.
    pub(crate) fn create_within(
        limit: Duration,
        daemon: &'d Daemon,
        id: &str,
        rootfs: Option<Vec<Mount>>,
        request: Request,
    ) -> Result<Task<'d>, Status> {
        let rootfs = rootfs.map_or_else(|| daemon.rootfs_mounts(id), Ok)?;
        let stdio = Stdio::create(&daemon.fifo_dir(id), request);
        let client = daemon.client();
        let message = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stdin: stdio.stdin_path.clone(),
            stdout: stdio.stdout_path.clone(),
            stderr: stdio.stderr_path.clone(),
            terminal: request.terminal,
            ..CreateTaskRequest::default()
        };
        let answer = client.call_within(limit, client.tasks().create(client.request(message)))?;
        let init = Process {
            daemon,
            container_id: id.to_owned(),
            exec_id: String::new(),
            stdio,
        };
        Ok(Task {
            init,
            pid: answer.pid,
        })
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.init.container_id
    }

    /// The pid that containerd was told.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// An exec in this container, to be described further.
    pub fn exec<'t>(&'t self, args: impl IntoIterator<Item = impl Into<String>>) -> Exec<'t, 'd> {
        Exec::new(self, args)
    }

    /// Runs a shell script in the container to its end.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Finished {
        self.exec(["sh", "-c", script]).run()
    }

    /// Sends a signal to every process of the container.
    #[track_caller]
    pub fn kill_all(&self, signal: i32) {
        self.init
            .send_signal(signal, true)
            .unwrap_or_else(|status| panic!("kill --all {}: {status}", self.id()));
    }

    /// Freezes the container.
    pub fn try_pause(&self) -> Result<(), Status> {
        let client = self.daemon.client();
        let request = PauseTaskRequest {
            container_id: self.id().to_owned(),
        };
        client.call(client.tasks().pause(client.request(request)))
    }

    /// Freezes the container.
    #[track_caller]
    pub fn pause(&self) {
        self.try_pause()
            .unwrap_or_else(|status| panic!("pause {}: {status}", self.id()));
    }

    /// Thaws the container.
    #[track_caller]
    pub fn resume(&self) {
        let client = self.daemon.client();
        let request = ResumeTaskRequest {
            container_id: self.id().to_owned(),
        };
        client
            .call(client.tasks().resume(client.request(request)))
            .unwrap_or_else(|status| panic!("resume {}: {status}", self.id()));
    }

    /// Changes the container's resources; `resources` is the OCI `linux.resources` object.
    pub fn try_update(&self, resources: &Value) -> Result<(), Status> {
        let client = self.daemon.client();
        let request = UpdateTaskRequest {
            container_id: self.id().to_owned(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".to_owned(),
                value: serde_json::to_vec(resources).expect("JSON"),
            }),
            ..UpdateTaskRequest::default()
        };
        client.call(client.tasks().update(client.request(request)))
    }

    /// Changes the container's resources.
    #[track_caller]
    pub fn update(&self, resources: &Value) {
        self.try_update(resources)
            .unwrap_or_else(|status| panic!("update {}: {status}", self.id()));
    }

    /// The pids of the container's processes.
    #[track_caller]
    pub fn pids(&self) -> Vec<u32> {
        let client = self.daemon.client();
        let request = ListPidsRequest {
            container_id: self.id().to_owned(),
        };
        let answer = client
            .call(client.tasks().list_pids(client.request(request)))
            .unwrap_or_else(|status| panic!("pids of {}: {status}", self.id()));
        answer.processes.iter().map(|process| process.pid).collect()
    }

    /// Waits until the task's events are exactly these.
    ///
    /// The reference is let off one thing: after a Delete runc's shim may be gone before it has sent its last
    /// events, and since 2.4 it may tell of init's exit after its deletion.
    #[track_caller]
    pub fn expect_events(&self, names: &[&str]) {
        let is_whole = |seen: &[String]| {
            let before_the_end = |names: &[&str]| -> Vec<String> {
                let others = names.iter().filter(|name| !["exit", "delete"].contains(*name));
                others.map(|name| (*name).to_owned()).collect()
            };
            let seen: Vec<&str> = seen.iter().map(String::as_str).collect();
            seen == names || (!Settings::get().is_vm() && before_the_end(&seen) == before_the_end(names))
        };
        let seen = deadline::try_poll(deadline::ORDINARY, || is_whole(&self.events()).then_some(()));
        assert!(
            seen.is_some(),
            "events of {}: {:?} instead of {names:?}",
            self.id(),
            self.events()
        );
    }

    /// The short names of the task's events so far.
    pub fn events(&self) -> Vec<String> {
        self.daemon.events().names(self.id())
    }
}

impl<'d> Deref for Task<'d> {
    type Target = Process<'d>;

    fn deref(&self) -> &Process<'d> {
        &self.init
    }
}

impl<'d> DerefMut for Task<'d> {
    fn deref_mut(&mut self) -> &mut Process<'d> {
        &mut self.init
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.init.stdio.detach();
        self.daemon.remove(self.id());
    }
}
