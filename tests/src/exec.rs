//! An exec in a running container.

use containerd_client::services::v1::ExecProcessRequest;
use containerd_client::tonic::Status;
use prost_types::Any;
use serde_json::{Value, json};

use crate::process::{Finished, Process};
use crate::stdio::{Request, Stdio};
use crate::task::Task;

/// Describes an exec; `run` runs it to its end, `create` only adds it to the task.
#[must_use]
pub struct Exec<'t, 'd> {
    task: &'t Task<'d>,
    id: String,
    spec: Value,
    stdio: Request,
}

// === impl Exec ===

impl<'t, 'd> Exec<'t, 'd> {
    pub(crate) fn new(task: &'t Task<'d>, args: impl IntoIterator<Item = impl Into<String>>) -> Exec<'t, 'd> {
        let args: Vec<String> = args.into_iter().map(Into::into).collect();
        let spec = json!({
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "user": { "uid": 0, "gid": 0 },
            "noNewPrivileges": true,
        });
        Exec {
            task,
            id: task.daemon.new_id("exec"),
            spec,
            stdio: Request::default(),
        }
    }

    /// Sets the exec's id.
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.spec["env"]
            .as_array_mut()
            .expect("env is a list")
            .push(json!(format!("{name}={value}")));
        self
    }

    /// Sets the working directory.
    pub fn cwd(mut self, dir: &str) -> Self {
        self.spec["cwd"] = json!(dir);
        self
    }

    /// Sets the numeric user and group.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.spec["user"] = json!({ "uid": uid, "gid": gid });
        self
    }

    /// Any other change to its description.
    pub fn spec(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.spec);
        self
    }

    /// Gives it a stdin.
    pub fn stdin(mut self) -> Self {
        self.stdio.stdin = true;
        self
    }

    /// Gives it a terminal, stdin too.
    pub fn terminal(mut self) -> Self {
        self.stdio.terminal = true;
        self.stdio.stdin = true;
        self.spec["terminal"] = json!(true);
        self
    }

    /// Leaves its stdout unread.
    pub fn unread_stdout(mut self) -> Self {
        self.stdio.unread_stdout = true;
        self
    }

    /// Adds the exec to the task.
    pub fn try_create(self) -> Result<Process<'d>, Status> {
        let daemon = self.task.daemon;
        let container_id = self.task.id().to_owned();
        let stdio = Stdio::create(&daemon.fifo_dir(&container_id), self.stdio);
        let client = daemon.client();
        let request = ExecProcessRequest {
            container_id: container_id.clone(),
            exec_id: self.id.clone(),
            stdin: stdio.stdin_path.clone(),
            stdout: stdio.stdout_path.clone(),
            stderr: stdio.stderr_path.clone(),
            terminal: self.stdio.terminal,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: serde_json::to_vec(&self.spec).expect("JSON"),
            }),
        };
        client.call(client.tasks().exec(client.request(request)))?;
        Ok(Process {
            daemon,
            container_id,
            exec_id: self.id,
            stdio,
        })
    }

    /// Adds the exec to the task.
    #[track_caller]
    pub fn create(self) -> Process<'d> {
        let what = format!("exec in {}", self.task.id());
        self.try_create()
            .unwrap_or_else(|status| panic!("{what}: {status}"))
    }

    /// Adds and starts it.
    #[track_caller]
    pub fn start(self) -> Process<'d> {
        let process = self.create();
        process.start();
        process
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Finished {
        self.start().finish()
    }
}
