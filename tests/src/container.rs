//! The builder that tests begin with: a container, described in `ctr`'s own words.

use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::{Container as Record, GetContainerRequest, UpdateContainerRequest};
use containerd_client::tonic::Status;
use containerd_client::types::Mount;
use prost_types::FieldMask;
use serde_json::Value;

use crate::command;
use crate::daemon::Daemon;
use crate::deadline;
use crate::run::{self, Ran};
use crate::settings::Settings;
use crate::stdio::Request;
use crate::task::Task;

/// Describes a container. `run` takes it through `ctr run --rm`; `create` and `start` make its
/// record with `ctr` and drive its task over the API.
#[must_use]
pub struct Container<'d> {
    daemon: &'d Daemon,
    id: String,
    runtime: String,
    flags: Vec<String>,
    run_flags: Vec<String>,
    rootfs: Option<String>,
    mounts: Option<Vec<Mount>>,
    args: Vec<String>,
    edits: Vec<Edit>,
    stdio: Request,
}

type Edit = Box<dyn FnOnce(&mut Value)>;

// === impl Container ===

impl<'d> Container<'d> {
    /// A container of the busybox image under the runtime being tested.
    pub fn new(daemon: &'d Daemon) -> Container<'d> {
        Container {
            daemon,
            id: daemon.new_id("c"),
            runtime: Settings::get().runtime.clone(),
            flags: Vec::new(),
            run_flags: Vec::new(),
            rootfs: None,
            mounts: None,
            args: Vec::new(),
            edits: Vec::new(),
            stdio: Request::default(),
        }
    }

    /// Sets the container's id.
    pub fn named(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self.daemon.note_id(id);
        self
    }

    /// Sets the runtime, where it is not the one under test.
    pub fn runtime(mut self, runtime: &str) -> Self {
        runtime.clone_into(&mut self.runtime);
        self
    }

    /// The command and its arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// A shell script as the command.
    pub fn sh(self, script: &str) -> Self {
        self.args(["sh", "-c", script])
    }

    /// Any flag of `ctr run` and `ctr containers create`.
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// A flag that only `ctr run` has.
    pub fn run_flag(mut self, flag: impl Into<String>) -> Self {
        self.run_flags.push(flag.into());
        self
    }

    /// `--env`.
    pub fn env(self, name: &str, value: &str) -> Self {
        self.flag("--env").flag(format!("{name}={value}"))
    }

    /// `--cwd`.
    pub fn cwd(self, dir: &str) -> Self {
        self.flag("--cwd").flag(dir)
    }

    /// `--user`.
    pub fn user(self, user: &str) -> Self {
        self.flag("--user").flag(user)
    }

    /// `--memory-limit`, in bytes.
    pub fn memory_limit(self, bytes: u64) -> Self {
        self.flag("--memory-limit").flag(bytes.to_string())
    }

    /// `--read-only`.
    pub fn read_only(self) -> Self {
        self.flag("--read-only")
    }

    /// `--mount` of a host path, with options such as `rbind:ro`.
    pub fn bind(self, source: &Path, destination: &str, options: &str) -> Self {
        let mount = format!(
            "type=bind,src={},dst={destination},options={options}",
            source.display()
        );
        self.flag("--mount").flag(mount)
    }

    /// Mounts the container's own cgroup, which `ctr` leaves out.
    pub fn cgroup_mount(self) -> Self {
        let mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev";
        self.flag("--mount").flag(mount)
    }

    /// `--rootfs`: a host directory in place of the image.
    pub fn rootfs(mut self, dir: &Path) -> Self {
        self.rootfs = Some(dir.display().to_string());
        self
    }

    /// Mounts in place of the snapshot, as containerd orders them from a shim. Only `create` and `start` honour it.
    pub fn mounts(mut self, mounts: Vec<Mount>) -> Self {
        self.mounts = Some(mounts);
        self
    }

    /// A change to the spec that `ctr` has no flag for. Only `create` and `start` honour it.
    pub fn spec(mut self, edit: impl FnOnce(&mut Value) + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Gives the task a stdin.
    pub fn stdin(mut self) -> Self {
        self.stdio.stdin = true;
        self
    }

    /// Gives the task a terminal, stdin too.
    pub fn terminal(mut self) -> Self {
        self.stdio.terminal = true;
        self.stdio.stdin = true;
        self.flag("--tty")
    }

    /// Leaves the task's stdout unread.
    pub fn unread_stdout(mut self) -> Self {
        self.stdio.unread_stdout = true;
        self
    }

    /// Counts the bytes of the task's stdout, and does not keep them.
    pub fn count_stdout(mut self) -> Self {
        self.stdio.count_stdout = true;
        self
    }

    /// Runs the container to its end through `ctr run --rm`.
    #[track_caller]
    pub fn run(self) -> Ran {
        self.run_with_stdin(b"")
    }

    /// Runs the container to its end with that input.
    #[track_caller]
    pub fn run_with_stdin(self, stdin: &[u8]) -> Ran {
        assert!(self.edits.is_empty(), "ctr run cannot edit a spec: use start()");
        assert!(
            self.mounts.is_none(),
            "ctr run takes the snapshot's mounts: use start()"
        );
        let ran = Ran::run(&self, stdin, run::LIMIT);
        self.daemon.remove(&self.id);
        ran
    }

    /// Makes the container's record only.
    #[track_caller]
    pub fn record(&mut self) {
        let mut command = self.daemon.ctr(["containers", "create"]);
        command.args(self.ctr_arguments());
        command::succeed(&mut command, deadline::ORDINARY);
        let edits = std::mem::take(&mut self.edits);
        if !edits.is_empty() {
            self.daemon
                .edit_spec(&self.id, |spec| edits.into_iter().for_each(|edit| edit(spec)));
        }
    }

    /// Makes the task of a container whose record is there.
    #[track_caller]
    pub fn task(self) -> Task<'d> {
        Task::create(self.daemon, &self.id, self.mounts, self.stdio)
            .unwrap_or_else(|status| panic!("{}: {status}", self.id))
    }

    /// Makes the container, begins to make its task, and takes the call back after `limit`.
    #[track_caller]
    pub fn create_within(mut self, limit: Duration) -> Result<Task<'d>, Status> {
        self.record();
        let task = Task::create_within(limit, self.daemon, &self.id, self.mounts, self.stdio);
        if task.is_err() {
            self.daemon.remove(&self.id);
        }
        task
    }

    /// Makes the container and its task; the command does not run yet.
    #[track_caller]
    pub fn try_create(mut self) -> Result<Task<'d>, Status> {
        self.record();
        let task = Task::create(self.daemon, &self.id, self.mounts, self.stdio);
        if task.is_err() {
            self.daemon.remove(&self.id);
        }
        task
    }

    /// Makes the container and its task; the command does not run yet.
    #[track_caller]
    pub fn create(self) -> Task<'d> {
        let id = self.id.clone();
        self.try_create()
            .unwrap_or_else(|status| panic!("create {id}: {status}"))
    }

    /// Makes the container and starts its task.
    #[track_caller]
    pub fn start(self) -> Task<'d> {
        let task = self.create();
        task.start();
        task
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn daemon(&self) -> &'d Daemon {
        self.daemon
    }

    pub(crate) fn run_flags(&self) -> &[String] {
        &self.run_flags
    }

    /// What stands behind `ctr run` and `ctr containers create`.
    pub fn ctr_arguments(&self) -> Vec<String> {
        let mut arguments = self.flags.clone();
        if self.rootfs.is_some() {
            arguments.push("--rootfs".to_owned());
        }
        // ctr 1.6 takes the command's own flags for its own, wherever they stand, but for the `--`;
        // and that it takes for the value of a flag which has none and stands before it.
        arguments.extend(["--runtime".to_owned(), self.runtime.clone(), "--".to_owned()]);
        arguments.push(
            self.rootfs
                .clone()
                .unwrap_or_else(|| self.daemon.image().to_owned()),
        );
        arguments.push(self.id.clone());
        arguments.extend(self.args.iter().cloned());
        arguments
    }
}

impl Daemon {
    /// The container's record.
    pub fn container(&self, id: &str) -> Result<Record, Status> {
        let client = self.client();
        let request = client.request(GetContainerRequest { id: id.to_owned() });
        let answer = client.call(client.containers().get(request))?;
        answer
            .container
            .ok_or_else(|| Status::internal("an answer without a container"))
    }

    /// Changes the spec in a container's record.
    #[track_caller]
    pub fn edit_spec(&self, id: &str, edit: impl FnOnce(&mut Value)) {
        let mut record = self
            .container(id)
            .unwrap_or_else(|status| panic!("container {id}: {status}"));
        let any = record.spec.as_mut().expect("ctr writes a spec");
        let mut spec = serde_json::from_slice(&any.value).expect("a spec is JSON");
        edit(&mut spec);
        any.value = serde_json::to_vec(&spec).expect("JSON");
        self.update_record(record, "spec");
    }

    fn update_record(&self, record: Record, field: &str) {
        let client = self.client();
        let request = client.request(UpdateContainerRequest {
            container: Some(record),
            update_mask: Some(FieldMask {
                paths: vec![field.to_owned()],
            }),
        });
        client
            .call(client.containers().update(request))
            .unwrap_or_else(|status| panic!("update: {status}"));
    }
}
